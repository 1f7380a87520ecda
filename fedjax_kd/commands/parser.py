"""A command line of exactly the options that apply, read from signatures and parsed by tyro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, NamedTuple

import tyro

from fedjax_kd.signature import REQUIRED, Option


class Section(NamedTuple):
    """Options that come from one place, and so stand together in the help."""

    name: str
    title: str
    options: Sequence[Option]
    aliases: Mapping[str, str] = {}  # of an option's name, with its dashes


def flag(name: str, *, help: str, type: Any = str | None, default: Any = None) -> Option:
    """An option of the command itself."""
    return Option(name, type, default, help)


def parse(
    prog: str, description: str, sections: Sequence[Section], args: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The values of all options, by section and name; exits with 2 if one is wrong.

    An option keeps its Python name, with dashes. Where two sections share one, the later section
    puts its own name before it (``--data-seed``).

    Example:
      >>> lr = Section("local", "Local training", [flag("lr", type=float, default=0.1, help="")])
      >>> parse("demo", "A demo.", [lr], ["--lr", "3"])
      {'local': {'lr': 3.0}}
    """
    names = _flat_names(sections)
    groups = [
        (section.name, Annotated[kind, tyro.conf.arg(prefix_name=False, help=section.title)])
        for section, kind in ((s, _group(s, names)) for s in sections)
        if section.options
    ]
    whole = make_dataclass("Options", groups, frozen=True)
    whole.__doc__ = description
    flat = (tyro.conf.OmitArgPrefixes,)
    parsed = tyro.cli(whole, prog=prog, description=description, args=list(args), config=flat)
    return {
        section.name: {
            option.name: getattr(getattr(parsed, section.name), names[section.name, option.name])
            for option in section.options
        }
        for section in sections
    }


def _flat_names(sections: Sequence[Section]) -> dict[tuple[str, str], str]:
    """What each option is called on the command line, with underscores."""
    taken: set[str] = set()
    names = {}
    for section in sections:
        for option in section.options:
            name = f"{section.name}_{option.name}" if option.name in taken else option.name
            names[section.name, option.name] = name
            taken.add(name)
    return names


def _group(section: Section, names: Mapping[tuple[str, str], str]) -> type:
    """The options of one section as the dataclass that tyro reads."""
    described = []
    for option in section.options:
        alias = section.aliases.get(option.name)
        about = tyro.conf.arg(help=option.help or None, aliases=[alias] if alias else None)
        kind = Annotated[option.type, about]
        name = names[section.name, option.name]
        if option.default is REQUIRED:
            described.append((name, kind, field()))
        else:
            described.append((name, kind, field(default=option.default)))
    return make_dataclass(section.name.title(), described, frozen=True, kw_only=True)
