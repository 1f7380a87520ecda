"""A command line of exactly the options that apply, read from signatures and parsed by tyro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import tyro

from fedjax_kd.errors import InputError
from fedjax_kd.options import REQUIRED, Option


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
    """The values of all options, by section and name; exits with 2 if one is none that it can have.

    Numbers are checked against the range that an option's help names.

    An option keeps its Python name, with dashes. Where two sections share one, the earlier section
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
    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    parsed: Any = tyro.cli(whole, prog=prog, description=description, args=list(args), config=flat)
    found: dict[str, dict[str, Any]] = {section.name: {} for section in sections}
    for section in sections:
        for option in section.options:
            name = names[section.name, option.name]
            value = getattr(getattr(parsed, section.name), name)
            option._replace(name=name).check(value, section.title)
            found[section.name][option.name] = value
    return found


def folders(
    args: Sequence[str], prog: str, help: str, *, most: int | None = None
) -> tuple[list[Path], list[str]]:
    """The run folders, which come first, and the rest of the arguments.

    Raises:
      ValueError: if there is none, more than ``most``, or one does not exist.
    """
    count = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    found = [Path(arg) for arg in args[:count]]
    if not found:
        parse(f"{prog} RUN", help, [], [a for a in args if a in ("-h", "--help")])
        raise InputError(f"{prog} needs a run folder: the path that `fedjax-kd run` printed last.")
    if most is not None and len(found) > most:
        raise InputError(f"{prog} takes one run folder, but {len(found)} are given: give one.")
    for folder in found:
        # Of several processes, the first alone needs to see it.
        if not folder.is_dir() and "--distributed" not in args:
            raise InputError(f"There is no folder {folder}: give the path of a run folder.")
    return found, list(args[count:])


def _flat_names(sections: Sequence[Section]) -> dict[tuple[str, str], str]:
    """What each option is called on the command line, with underscores."""
    taken: set[str] = set()
    names = {}
    for section in reversed(sections):
        for option in section.options:
            name = f"{section.name}_{option.name}" if option.name in taken else option.name
            names[section.name, option.name] = name
            taken.add(name)
    return names


def _group(section: Section, names: Mapping[tuple[str, str], str]) -> type:
    """The options of one section as the dataclass that tyro reads."""
    described: list[tuple[str, Any, Any]] = []
    for option in section.options:
        kind: Any = option.type
        about = Annotated[kind, _about(option, section.aliases.get(option.name))]
        value = field() if option.default is REQUIRED else field(default=option.default)
        described.append((names[section.name, option.name], about, value))
    return make_dataclass(section.name, described, frozen=True, kw_only=True)


def _about(option: Option, alias: str | None) -> Any:
    """What the help says of an option."""
    return tyro.conf.arg(
        help=option.help.replace("``", "") or None,
        metavar=_metavar(option.type),
        help_behavior_hint=_hint(option.default),
        aliases=[alias] if alias else None,
    )


def _hint(default: Any) -> str:
    """What holds without the option; nothing for switches and for what is off or found out."""
    if default is REQUIRED:
        return "(required)"
    if default is None or default == () or isinstance(default, bool):
        return "(this turns it off)" if default else ""
    typed = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"(default: {typed})"


def _metavar(kind: Any) -> str | None:
    """What stands for the value; None leaves it to tyro."""
    members = [m for m in get_args(kind) if m is not type(None)]
    optional = get_origin(kind) in (Union, UnionType) and len(members) == 1
    name = getattr(members[0], "__name__", "") if optional else ""
    return {"int": "INT", "float": "FLOAT", "str": "TEXT"}.get(
        name, "TEXT" if kind is str else None
    )
