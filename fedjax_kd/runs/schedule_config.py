"""Learning rates that change from round to round: optax's schedules by name, as shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from fedjax_kd.errors import InputError
from fedjax_kd.options import REQUIRED, Option, checks_options, options
from fedjax_kd.runs.option_values import parse_named

_FORM = "write it as cosine:rounds=100,end=0.1, or several in turn as warmup:rounds=10+cosine:..."


@checks_options
def _constant(*, rounds: int | None = None) -> optax.Schedule:
    """The whole rate.

    Args:
      rounds: until the next schedule begins, >= 1; to the end if not given.
    """
    return optax.constant_schedule(1.0)


@checks_options
def _linear(*, rounds: int, start: float = 1.0, end: float = 0.0) -> optax.Schedule:
    """From one share to another in equal steps.

    Args:
      rounds: until ``end`` is reached, >= 1.
      start: share in the first round, >= 0.
      end: share after ``rounds`` rounds, >= 0.
    """
    return optax.linear_schedule(start, end, rounds)


@checks_options
def _warmup(*, rounds: int, start: float | None = None) -> optax.Schedule:
    """Rises in equal steps to the whole rate, which the last of ``rounds`` rounds has.

    Args:
      rounds: that have a smaller rate, and the first that has all of it, >= 1.
      start: share in the first round, >= 0; ``1 / rounds`` if not given.
    """
    first = 1 / rounds if start is None else start
    return optax.linear_schedule(first, 1.0, max(rounds - 1, 1))


@checks_options
def _cosine(*, rounds: int, end: float = 0.0) -> optax.Schedule:
    """Half a cosine from the whole rate to ``end``, where it stays.

    Args:
      rounds: until ``end`` is reached, >= 1.
      end: share after ``rounds`` rounds, >= 0.
    """
    return optax.cosine_decay_schedule(1.0, rounds, alpha=end)


@checks_options
def _step(*, at: tuple[int, ...], factor: float = 0.1) -> optax.Schedule:
    """Multiplied by ``factor`` after each of some numbers of rounds.

    Args:
      at: finished rounds, each >= 1, such as 50x75.
      factor: of each step, > 0.
    """
    if sorted(set(at)) != list(at):
        raise InputError(f"at is {'x'.join(map(str, at))}, but must ascend: write it as 50x75.")
    return optax.piecewise_constant_schedule(1.0, dict.fromkeys(at, factor))


@checks_options
def _exponential(*, factor: float, every: int = 1, end: float = 0.0) -> optax.Schedule:
    """Multiplied by ``factor`` in ``every`` rounds, smoothly, but not below ``end``.

    Args:
      factor: by which the rate falls, in (0, 1].
      every: rounds in which the rate falls by the factor, >= 1.
      end: least share, >= 0.
    """
    falling = optax.exponential_decay(1.0, every, factor)
    return lambda count: jnp.maximum(falling(count), end)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "warmup": _warmup,
    "cosine": _cosine,
    "step": _step,
    "exponential": _exponential,
}
"""Shares of a learning rate by round, by name; options from their signatures."""


def parse_schedule(text: str) -> Callable[[Array], Array]:
    """The share of a learning rate that each round has, from words like ``cosine:rounds=100``.

    Schedules joined by ``+`` follow each other; each but the last says how many ``rounds`` it has,
    and each counts its own rounds.

    Args:
      text: names of `SCHEDULES` with their options.

    Returns:
      ``round number, from 0 on -> share``, traceable.

    Raises:
      ValueError: if there is no such schedule or option, one is missing, or out of its range.

    Source: the schedules are optax's.

    Example:
      >>> share = parse_schedule("warmup:rounds=2+cosine:rounds=4,end=0.2")
      >>> [round(float(share(n)), 3) for n in (0, 1, 2, 4, 6, 9)]
      [0.5, 1.0, 1.0, 0.6, 0.2, 0.2]
    """
    parts = [parse_named("schedule", part.strip(), SCHEDULES) for part in text.split("+")]
    made = [_made(*part) for part in parts]
    for name, given in parts[:-1]:
        if given.get("rounds") is None:
            raise InputError(
                f"{name} in the schedule {text!r} does not say for how many rounds, so that what "
                "follows it would never begin: give its rounds, or put it last."
            )
    ends = list(accumulate(given["rounds"] for _, given in parts[:-1]))
    return partial(_share, optax.join_schedules(made, ends))


def _share(schedule: optax.Schedule, number: Any) -> Array:
    """The share of a round; optax mixes types, also where users have forbidden that."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(schedule(jnp.asarray(number, jnp.float32)), jnp.float32)


def _made(name: str, given: Mapping[str, Any]) -> optax.Schedule:
    known = options(SCHEDULES[name])
    missing = [o.name for o in known if o.default is REQUIRED and o.name not in given]
    if missing:
        raise InputError(f"The schedule {name} needs {', '.join(missing)}: {_FORM}.")
    return SCHEDULES[name](**given)


def with_schedule(
    whose: Literal["client", "server"],
    text: str | None,
    given: Mapping[str, Any],
    known: Sequence[Option],
) -> dict[str, Any]:
    """The options of a method or of local training, their learning rate multiplied by a schedule.

    Args:
      whose: the rate: ``client_lr``, or ``server_lr``, which some methods call ``eta``.
      text: the schedule, as `parse_schedule` reads it; None leaves the rate as it is.
      given: values by name; the rate may be traced.
      known: all options that there are.

    Raises:
      ValueError: if there is no such rate among them, or no such schedule.
    """
    if text is None:
        return dict(given)
    share, defaults = parse_schedule(text), {o.name: o.default for o in known}
    names = ("client_lr",) if whose == "client" else ("server_lr", "eta")
    name = next((n for n in names if n in defaults), None)
    if name is None:
        raise InputError(
            f"{whose}_schedule is {text!r}, but this method has no {' or '.join(names)} that it "
            f"could change: leave {whose}_schedule out."
        )
    rate = given.get(name, defaults[name])
    return {**given, name: lambda number: rate * share(number)}
