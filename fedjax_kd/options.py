"""Options read from the signatures of factories, so that no central list of them exists.

A factory declares its own options and takes the rest as ``**options`` for the factory it builds on;
`extends` makes that chain visible to ``help()``, to the command line and to the documentation.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, reduce, wraps
from numbers import Real
from operator import or_
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse

from fedjax_kd.errors import InputError, InputTypeError

REQUIRED = inspect.Parameter.empty

_Entry = TypeVar("_Entry")

FACTS = ("population", "capacity", "classes")
"""Arguments that a method needs of its federation: clients, examples of the largest, labels."""

_PLAIN = (int, float, str, bool, type(None))


class Option(NamedTuple):
    """One option of a factory as the command line sees it."""

    name: str
    type: Any
    default: Any
    help: str


def extends(
    *bases: Callable[..., Any],
    fixes: Collection[str] = (),
    fixes_local: Collection[str] = (),
    network: Mapping[str, Any] = MappingProxyType({}),
    needs_classes: str = "",
) -> Callable:
    """Decorates a factory that passes its ``**options`` on to ``bases``.

    Their options become part of the signature, but for those that the factory ``fixes``. With
    several bases, `options_of` takes out those of one.

    Options of local training that it sets itself (``fixes_local``) are hidden from the command
    line, and a ``fit`` that sets one is refused. ``network`` is "model" and "model_options" that
    suit the method where the default network does not, for descriptions and tables. A method that
    ``needs_classes`` as targets says here what for.

    Example:
      >>> def plain(task, *, lr: float = 0.1, clip: float = 1.0): ...
      >>> @extends(plain, fixes=["clip"])
      ... def fancy(task, *, mu: float = 0.5, **options): ...
      >>> str(inspect.signature(fancy))
      "(task, *, mu: 'float' = 0.5, lr: 'float' = 0.1)"
      >>> fancy(None, m=1)
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputTypeError: fancy has no option 'm'; near it: mu. It has: mu, lr.
    """

    def decorate(factory: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(factory).parameters.values() if p.kind != p.VAR_KEYWORD]
        taken = {p.name for p in own} | set(fixes)
        inherited = {p.name: p for base in bases for p in _keyword_only(base)}
        kept = [p for name, p in inherited.items() if name not in taken]
        signature = inspect.Signature([*own, *kept])
        names = [p.name for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY]

        @wraps(factory)
        def checked(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in signature.parameters:
                    raise InputTypeError(_unknown(factory.__name__, name, names))
            if fixed:
                _check_fit(factory.__name__, signature.bind(*args, **options).arguments, fixed)
            made = factory(*args, **options)
            return _needing(made, needs_classes) if needs_classes else made

        fixed = tuple({*fixes_local, *(name for base in bases for name in fixed_local(base))})
        own_network = network or next(filter(None, map(network_of, bases)), {})
        vars(checked).update(
            __signature__=signature, bases=bases, fixed_local=fixed, network=own_network
        )
        return checked

    return decorate


def _needing(made: Any, needs_classes: str) -> Any:
    """An algorithm, or several of groups, with what it needs classes for."""
    if hasattr(made, "_replace"):
        return made._replace(needs_classes=needs_classes)
    return tuple(group._replace(needs_classes=needs_classes) for group in made)


def fixed_local(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The options of local training that a method sets itself."""
    return vars(factory).get("fixed_local", ())


def network_of(factory: Callable[..., Any]) -> Mapping[str, Any]:
    """ "model" and "model_options" that suit a method; empty if the default network does."""
    return vars(factory).get("network", {})


def _check_fit(factory: str, arguments: Mapping[str, Any], fixed: Sequence[str]) -> None:
    """Raises ValueError if a local training sets what the method sets itself."""
    fit = arguments.get("fit")
    for name in fixed:
        if name in getattr(fit, "given", ()):
            raise InputError(
                f"{factory} sets {name} of the local training itself, but it is given: leave it "
                "out of `local_training`."
            )


def options_of(
    factory: Callable[..., Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(those of the factory, the others)`` of some options.

    Example:
      >>> def plain(task, *, lr: float = 0.1): ...
      >>> options_of(plain, {"lr": 1.0, "mu": 2.0})
      ({'lr': 1.0}, {'mu': 2.0})
    """
    names = {p.name for p in _keyword_only(factory)}
    own = {name: value for name, value in given.items() if name in names}
    return own, {name: value for name, value in given.items() if name not in names}


def options(factory: Callable[..., Any]) -> list[Option]:
    """The options of a factory that are numbers, words or choices.

    These are the keyword-only arguments of a function, or the fields of a dataclass. Options that
    only Python can give (functions, optimisers) are left out, and so are `FACTS`. The help is the
    ``Args:`` line of the docstring in which the option is explained; the default of a required one
    is `REQUIRED`.
    """
    return list(_options(factory))


@cache
def _options(factory: Callable[..., Any]) -> tuple[Option, ...]:
    """Read once a factory: sweeps ask at every point, and docstrings take time to parse."""
    found = []
    for parameter in _keyword_only(factory):
        owner = _owner(factory, parameter.name)
        plain = plain_type(get_type_hints(owner).get(parameter.name, str))
        is_fact = parameter.name in FACTS and parameter.default is REQUIRED
        if plain is not None and not is_fact:
            found.append(
                Option(parameter.name, plain, parameter.default, _help(owner, parameter.name))
            )
    return tuple(found)


def plain_type(annotation: Any) -> Any:
    """What of an annotation can be typed on a command line; None if nothing.

    Example:
      >>> plain_type(float | Callable), plain_type(Callable)
      (<class 'float'>, None)
    """
    union = get_origin(annotation) in (Union, types.UnionType)
    members = get_args(annotation) if union else (annotation,)
    kept = [m for m in members if m in _PLAIN or get_origin(m) is Literal or _is_several(m)]
    if all(m is type(None) for m in kept):
        return None
    return reduce(or_, kept)


def _is_several(annotation: Any) -> bool:
    """Whether an annotation is a tuple of any number of ints, floats or words."""
    return annotation in (tuple[int, ...], tuple[float, ...], tuple[str, ...])


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; near it: a, b."`` or nothing, for messages about unknown names.

    Example:
      >>> nearest("fedporx", ["fedavg", "fedprox"])
      '; near it: fedprox'
    """
    close = difflib.get_close_matches(name, list(known), 3, 0.5)
    return f"; near it: {', '.join(close)}" if close else ""


def named(kind: str, name: str, registry: Mapping[str, _Entry]) -> _Entry:
    """The entry of a registry.

    Raises:
      ValueError: if there is none; the message names near ones.

    Example:
      >>> named("method", "fedavgg", {"fedavg": 1, "fedprox": 2})
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: There is no method 'fedavgg'; near it: fedavg. There are: fedavg,
      fedprox.
    """
    if name not in registry:
        known = ", ".join(registry)
        raise InputError(
            f"There is no {kind} {name!r}{nearest(name, registry)}. There are: {known}."
        )
    return registry[name]


def _unknown(factory: str, name: str, names: list[str]) -> str:
    near = nearest(name, names)
    return f"{factory} has no option {name!r}{near}. It has: {', '.join(names)}."


def _keyword_only(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(factory).parameters.values()
    return [p for p in parameters if p.kind == p.KEYWORD_ONLY or is_dataclass(factory)]


def _owner(factory: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The factory in whose source the option is written."""
    source = inspect.unwrap(factory)
    if name in inspect.signature(source).parameters:
        return source
    bases = vars(factory)["bases"]
    return _owner(next(b for b in bases if name in inspect.signature(b).parameters), name)


def _help(factory: Callable[..., Any], name: str) -> str:
    documented = {p.arg_name: p.description for p in parse(factory.__doc__ or "").params}
    return " ".join((documented.get(name) or "").split())


def check_options(owner: str, given: Mapping[str, Any], known: Sequence[Option]) -> None:
    """Raises ValueError if an option is unknown or no finite number."""
    names = [option.name for option in known]
    for name in given:
        if name not in names:
            raise InputError(
                f"{owner} has no option {name!r}{nearest(name, names)}. It has: {', '.join(names)}."
            )
    check_finite(owner, given)


def check_range(
    name: str,
    value: Any,
    advice: str,
    *,
    least: float = 0.0,
    most: float = math.inf,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raises ValueError if a number is not in its interval; a traced value passes.

    The interval is ``[least, most]``; ``above`` and ``below`` are ends that do not belong to it.

    Example:
      >>> check_range("mu", -1.0, "it weighs a penalty.")
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: mu is -1.0, but must be >= 0: it weighs a penalty.
    """
    if not isinstance(value, Real):
        return
    number, low = float(value), least if above is None else above
    high = most if below is None else below
    inside = (low <= number if above is None else low < number) and (
        number <= high if below is None else number < high
    )
    if not (math.isfinite(number) and inside):
        ends = f"{'[' if above is None else '('}{low:g}, {high:g}{']' if below is None else ')'}"
        one_sided = f"{'>=' if above is None else '>'} {low:g}"
        allowed = one_sided if high == math.inf else f"in {ends}"
        raise InputError(f"{name} is {value}, but must be {allowed}: {advice}")


def check_choice(name: str, value: Any, choices: Any, advice: str = "") -> None:
    """Raises ValueError if ``value`` is none of the strings of a Literal.

    Example:
      >>> check_choice("hessian", "SO", Literal["FO", "HF"], "HF is the paper's.")
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: hessian is 'SO', but must be one of FO, HF: HF is the paper's.
    """
    allowed = get_args(choices)
    if value not in allowed:
        message = f"{name} is {value!r}, but must be one of {', '.join(allowed)}"
        raise InputError(f"{message}: {advice}" if advice else f"{message}.")


def check_finite(owner: str, given: Mapping[str, Any]) -> None:
    """Raises ValueError if a number is NaN or infinite."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} of {owner} is {value}, but must be finite: give a number.")
