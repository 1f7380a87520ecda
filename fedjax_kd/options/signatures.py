"""Options read from the signatures of factories, so that no central list of them exists.

A factory declares its own options and takes the rest as ``**options`` for the factory it builds on;
`extends` makes that chain visible to ``help()``, to the command line and to the documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, wraps
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_type_hints

from docstring_parser import parse

from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.options.annotations import plain_type
from fedjax_kd.options.ranges import Limit, check_value, limit_of
from fedjax_kd.options.registries import nearest

REQUIRED = inspect.Parameter.empty

_Factory = TypeVar("_Factory", bound=Callable[..., Any])

FACTS = ("population", "capacity", "classes")
"""Arguments that a method needs of its federation: clients, examples of the largest, labels."""


class Option(NamedTuple):
    """One option of a factory as the command line sees it."""

    name: str
    type: Any
    default: Any
    help: str

    def check(self, value: Any, owner: str) -> None:
        """Raises ValueError if a value is no number in the range that the help names."""
        limit = limit_of(self.name, self.type, self.help, owner)
        if limit is not None:
            check_value(limit, value)


def checks_options(factory: _Factory) -> _Factory:
    """Decorates a function or a dataclass whose docstring gives ranges of its numbers.

    What is given must be a number, or numbers, in the range that the ``Args:`` line of the argument
    names, see `fedjax_kd.options.ranges.interval_of`. Traced values pass, and functions and None
    where the annotation allows them.

    Example:
      >>> @checks_options
      ... def plain(task, *, lr: float = 0.1):
      ...     '''Plain.
      ...
      ...     Args:
      ...       lr: learning rate, > 0.
      ...     '''
      >>> plain(None, lr=-0.1)
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: lr is -0.1, but must be > 0: learning rate (plain).
    """
    if inspect.isclass(factory):
        made = factory.__init__

        @wraps(made)
        def checked_init(self: Any, *args: Any, **given: Any) -> None:
            _check_arguments(factory, args, given)
            made(self, *args, **given)

        vars_of_class: Any = factory
        vars_of_class.__init__ = checked_init
        return factory

    @wraps(factory)
    def checked(*args: Any, **given: Any) -> Any:
        _check_arguments(checked, args, given)
        return factory(*args, **given)

    found: Any = checked
    return found


def _check_arguments(
    factory: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]
) -> None:
    """Raises ValueError if an argument is out of its documented range."""
    known = limits(factory)
    arguments = dict(zip(inspect.signature(factory).parameters, args, strict=False)) | dict(given)
    for name, value in arguments.items():
        if name in known:
            check_value(known[name], value)


@cache
def limits(factory: Callable[..., Any]) -> Mapping[str, Limit]:
    """What the arguments of a factory may be, of those that are numbers, by name."""
    found: dict[str, Limit] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        owner = _owner(factory, name)
        limit = limit_of(
            name, _hints(owner).get(name), _help(owner, name), owner.__name__.lstrip("_")
        )
        found |= {} if limit is None else {name: limit}
    return found


@cache
def _hints(factory: Callable[..., Any]) -> Mapping[str, Any]:
    return get_type_hints(factory)


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
            _check_arguments(checked, args, options)
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
        plain = plain_type(_hints(owner).get(parameter.name, str))
        is_fact = parameter.name in FACTS and parameter.default is REQUIRED
        if plain is not None and not is_fact:
            found.append(
                Option(parameter.name, plain, parameter.default, _help(owner, parameter.name))
            )
    return tuple(found)


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
    return _documented(factory).get(name, "")


@cache
def _documented(factory: Callable[..., Any]) -> Mapping[str, str]:
    """What the docstring of a factory says of each argument."""
    found = parse(factory.__doc__ or "").params
    return {p.arg_name: " ".join((p.description or "").split()) for p in found}


def check_options(owner: str, given: Mapping[str, Any], known: Sequence[Option]) -> None:
    """Raises ValueError if an option is unknown, or no number in its range."""
    check_names(owner, list(given), known)
    by_name = {option.name: option for option in known}
    for name, value in given.items():
        by_name[name].check(value, owner)


def check_names(owner: str, given: Collection[str], known: Sequence[Option]) -> None:
    """Raises ValueError if an option is unknown."""
    names = [option.name for option in known]
    for name in given:
        if name not in names:
            raise InputError(_unknown(owner, name, names))
