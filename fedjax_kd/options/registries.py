"""Entries of registries by their names, and words that name a choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from fedjax_kd.errors import InputError

_Entry = TypeVar("_Entry")


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


def check_choice(name: str, value: Any, choices: Any, advice: str = "") -> None:
    """Raises ValueError if ``value`` is none of the strings of a Literal.

    Example:
      >>> from typing import Literal
      >>> check_choice("hessian", "SO", Literal["FO", "HF"], "HF is the paper's.")
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: hessian is 'SO', but must be one of FO, HF: HF is the paper's.
    """
    allowed = get_args(choices)
    if value not in allowed:
        message = f"{name} is {value!r}, but must be one of {', '.join(allowed)}"
        raise InputError(f"{message}: {advice}" if advice else f"{message}.")
