"""Ranges of numbers, read from the sentence that documents an option, and enforced by them."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_kd.errors import InputError

_END = r"-?\d+(?:\.\d+)?(?:e-?\d+)?(?:\*\*\d+)?"
# Where a sentence begins or goes on, so that a formula in the middle of it is no range.
_RANGE = re.compile(
    rf"(?:^|(?<=, )|(?<=; )|(?<=each ))(?P<sign>>=?) (?P<least>{_END})"
    rf"|\bin (?P<opens>[\[(])(?P<low>{_END}), (?P<high>{_END})(?P<closes>[\])])"
    r"|\bany number\b"
)

_SEQUENCES = (list, tuple, range, np.ndarray, jax.Array)


class Interval(NamedTuple):
    """The numbers between two ends, and the words in which they are documented."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    has_low: bool = False  # whether the ends belong to it
    has_high: bool = False

    def holds(self, number: Real) -> bool:
        """Whether a number lies in it."""
        value = float(number)
        above = self.low <= value if self.has_low else self.low < value
        return above and (value <= self.high if self.has_high else value < self.high)


class Limit(NamedTuple):
    """What an option may be, where that is a number or several."""

    name: str
    owner: str  # whose option it is
    help: str
    whole: bool  # integers alone
    single: bool  # one number
    several: bool  # a sequence of numbers
    other: tuple[type, ...]  # kinds that are no numbers: None, words, functions

    @property
    def interval(self) -> Interval | None:
        """The documented range; None if there is none."""
        return interval_of(self.help)


@cache
def interval_of(text: str) -> Interval | None:
    """The range that a sentence names; None if it names none.

    A range is ``>= 1`` or ``> 0`` after a comma, ``in [0, 1)`` with square brackets at ends that
    belong to it, or "any number".

    Example:
      >>> interval_of("momentum, in [0, 1); the paper has 0.9")
      Interval(words='in [0, 1)', low=0.0, high=1.0, has_low=True, has_high=False)
      >>> interval_of("weight, > 0").holds(0)
      False
    """
    found = _RANGE.search(text)
    if found is None:
        return None
    words, part = found[0], found.groupdict()
    if part["sign"]:
        return Interval(words, low=_end(part["least"]), has_low=part["sign"] == ">=")
    if part["low"] is None:
        return Interval(words)
    square = part["opens"] == "[", part["closes"] == "]"
    return Interval(words, _end(part["low"]), _end(part["high"]), *square)


def limit_of(name: str, annotation: Any, help: str, owner: str) -> Limit | None:
    """What an option may be, by its type and its help; None if it is no number.

    Example:
      >>> limit_of("mu", float | None, "a weight, >= 0.", "demo").interval.words
      '>= 0'
    """
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    numbers = [kind for kind in members if kind in (int, float)]
    several = [kind for kind in map(_element, members) if kind is not None]
    if not numbers and not several:
        return None
    whole = float not in (*numbers, *several)
    rest = [m for m in members if m not in numbers and _element(m) is None]
    # `float | jax.Array` is one number, which may be traced.
    others = (str if get_origin(m) is Literal else get_origin(m) or m for m in rest)
    kinds = tuple(kind for kind in others if isinstance(kind, type) and kind is not jax.Array)
    return Limit(name, owner, help, whole, bool(numbers), bool(several), kinds)


def check_value(limit: Limit, value: Any) -> None:
    """Raises ValueError if an option cannot be this value; what is traced passes.

    Example:
      >>> check_value(limit_of("mu", float, "weight of the penalty, >= 0.", "demo"), -1.0)
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: mu is -1.0, but must be >= 0: weight of the penalty (demo).
    """
    if isinstance(value, jax.core.Tracer) or _is_other(limit, value):
        return
    many = limit.several and isinstance(value, _SEQUENCES) and np.ndim(value) == 1
    if many:
        faults = (_fault(limit, v) for v in value if not isinstance(v, jax.core.Tracer))
        fault = next((f for f in faults if f is not None), None)
    else:
        fault = _fault(limit, value) if limit.single else "a sequence of numbers"
    if fault is not None:
        words = "" if limit.interval is None else limit.interval.words.replace("any number", "")
        joined = (
            " and ".join(filter(None, [fault, words])) if fault == "finite" else f"{fault} {words}"
        )
        raise InputError(
            f"{limit.name} is {_shown(value)}, but {'each ' if many else ''}must be "
            f"{joined.strip()}: {_meaning(limit)}({limit.owner})."
        )


def check_finite(owner: str, given: dict[str, Any]) -> None:
    """Raises ValueError if a number is NaN or infinite."""
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} of {owner} is {value}, but must be finite: give a number.")


def _is_other(limit: Limit, value: Any) -> bool:
    """Whether a value is of a kind that the option may have beside numbers."""
    return isinstance(value, limit.other) and not isinstance(value, bool)


def _fault(limit: Limit, value: Any) -> str | None:
    """What kind of number must be given instead of one; "" if only its range is wrong."""
    number = number_of(value)
    if number is None:
        return "one whole number" if limit.whole else "one number"
    if limit.whole and not isinstance(number, Integral):
        return "a whole number"
    if not math.isfinite(number):
        return "finite"
    return None if limit.interval is None or limit.interval.holds(number) else ""


def number_of(value: Any) -> Real | None:
    """The number that a value is, also NumPy's and JAX's; None if it is none, or a truth value.

    Example:
      >>> number_of(np.float32(0.5)), number_of(jnp.int32(2)), number_of(True), number_of([1])
      (0.5, 2, None, None)
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return value if isinstance(value, Real) and not isinstance(value, bool) else None
    if np.ndim(value) or not (
        jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
    ):
        return None
    return np.asarray(value).item()


def _element(annotation: Any) -> type | None:
    """``int`` or ``float`` of a sequence or a tuple of such numbers; None for all else."""
    origin, args = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not issubclass(origin, Sequence):
        return None
    kinds = {a for a in args if a is not Ellipsis}
    return next(iter(kinds)) if kinds in ({int}, {float}) else None


def _end(text: str) -> float:
    """The number that stands at an end, such as ``2**32``."""
    base, _, power = text.partition("**")
    return float(base) ** int(power or 1)


def _shown(value: Any) -> str:
    return reprlib.repr(value) if number_of(value) is None else str(value)


def _meaning(limit: Limit) -> str:
    """The first sentence of an option's help, without its range, which the message says already."""
    words = limit.interval.words if limit.interval else ""
    text = re.sub(rf",?\s*(each )?{re.escape(words)}" if words else "$^", "", limit.help, count=1)
    first = re.split(r"\.(?:\s|$)", text.replace("``", "").strip(" ,;:"))[0]
    return f"{first} " if first else ""
