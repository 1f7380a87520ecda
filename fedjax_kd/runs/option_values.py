"""Values of options from text or from numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from fedjax_kd.errors import InputError
from fedjax_kd.options import Option, check_names, check_options, named, options

_NO = object()


def parse_value(option: Option, value: Any, name: str, where: str = "in this sweep") -> Any:
    """A value of the option's kind from text or from a number; "64x32" is a tuple of numbers.

    Raises:
      ValueError: if it is of another kind, or out of the range that the option's help names.

    Example:
      >>> parse_value(Option("epochs", int, 1, ""), "5", "epochs")
      5
      >>> parse_value(Option("hidden", tuple[int, ...], (), ""), "64x32", "hidden")
      (64, 32)
    """
    whole = get_origin(option.type) in (Literal, tuple)
    members = (option.type,) if whole else get_args(option.type) or (option.type,)
    for member in members:
        found = _as(member, value)
        if found is not _NO:
            option._replace(name=name).check(found, where)
            return found
    kinds = " or ".join(_named(member) for member in members)
    raise InputError(f"{name} is {value!r} {where}, but must be {kinds}: give such a value.")


def parse_named(
    kind: str, text: str, registry: Mapping[str, Callable[..., Any]]
) -> tuple[str, dict[str, Any]]:
    """Name and options of an entry of a registry from words like ``mlp:hidden=64x32,seed=1``.

    Args:
      kind: what the entries are, for messages.
      text: the words.
      registry: of factories, whose options are read from their signatures.

    Raises:
      ValueError: if there is no such entry or option, or a value none that it can have.

    Example:
      >>> def demo(*, keep: float = 0.1): ...
      >>> parse_named("wrapper", "demo:keep=0.5", {"demo": demo})
      ('demo', {'keep': 0.5})
    """
    name, _, rest = text.partition(":")
    known = options(named(kind, name, registry))
    return name, parse_options(f"{kind} {name}", rest, known, f"the {kind} {text!r}")


def parse_options(owner: str, text: str, known: Sequence[Option], whole: str) -> dict[str, Any]:
    """Options from words like ``hidden=64x32,seed=1``.

    Args:
      owner: whose options they are, for messages.
      text: the words; dashes in names stand for underscores.
      known: the options that there are.
      whole: what the words are a part of, for messages.

    Raises:
      ValueError: if there is no such option, one is named twice, or has a value of another kind.

    Example:
      >>> parse_options("demo", "keep=0.5", [Option("keep", float, 0.1, "")], "demo:keep=0.5")
      {'keep': 0.5}
    """
    by_name = {o.name: o for o in known}
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        option, equals, value = part.partition("=")
        option = option.replace("-", "_")
        if not equals:
            raise InputError(
                f"{part!r} in {whole} has no value: write it as NAME:OPTION=VALUE,OPTION=VALUE."
            )
        if option in given:
            raise InputError(f"{whole[0].upper()}{whole[1:]} names {option} twice: give it once.")
        check_names(owner, [option], known)
        given[option] = parse_value(by_name[option], value, option, f"in {whole}")
    check_options(owner, given, known)
    return given


def _as(kind: Any, value: Any) -> Any:
    """A value as one of a kind, or `_NO`."""
    if get_origin(kind) is tuple:
        return _numbers(get_args(kind)[0], value)
    if kind in (int, float):
        return _number(kind, value)
    fitting: dict[Any, dict[str, Any]] = {
        bool: {"true": True, "false": False},
        type(None): {"none": None},
        str: {str(value).lower(): value} if isinstance(value, str) else {},
    }
    words = fitting.get(kind, {str(choice).lower(): choice for choice in get_args(kind)})
    return words.get(str(value).lower(), _NO)


def _numbers(kind: type, value: Any) -> Any:
    parts = value if isinstance(value, list | tuple) else str(value).split("x")
    numbers = tuple(_number(kind, part) for part in parts)
    return _NO if _NO in numbers else numbers


def _number(kind: type, value: Any) -> Any:
    if isinstance(value, bool):
        return _NO
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _NO
    return number if kind is float else int(number) if number.is_integer() else _NO


def _named(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return words.get(kind, "none" if kind is type(None) else "numbers such as 64x32")
