"""A slow engine for finding mistakes: plain Python, one client after the other, nothing compiled.

``print``, ``breakpoint`` and NumPy work inside the functions of an algorithm, and an error says in
which round, for which client and in which function it arose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.core import Algorithm, Client, Key, State
from fedjax_kd.engine import Report, Resident, RoundFn, make_round
from fedjax_kd.phase import Phase, Setting, gather, visit
from fedjax_kd.seating import Layout, Seating


class StageError(RuntimeError):
    """An error inside a function of an algorithm; what was raised there is its ``__cause__``."""


def make_debug_round(groups: Sequence[Algorithm], layout: Layout) -> RoundFn:
    """The counterpart of `fedjax_kd.engine.make_round`, with the same results up to rounding.

    Raises:
      StageError: when called, if a function of an algorithm raises.
    """

    def round_fn(
        key: Key, state: State, resident: Resident, seatings: Sequence[Seating], number: Array
    ) -> tuple[State, Report]:
        where = f"round {int(number)}, the server"
        staged = [
            a._replace(server_update=_named(a.server_update, where, "server_update"))
            for a in groups
        ]
        run = make_round(staged, layout, phase=_python_phase)
        with jax.disable_jit():
            return run(key, state, resident, seatings, number)

    return round_fn


def _python_phase(
    algorithm: Algorithm,
    widths: Sequence[int],
    setting: Setting,
    clients: Client,
    seating: Seating,
) -> Phase:
    """Every client of the cohort in turn."""
    del widths
    visits = []
    for place, number in enumerate(seating.seats.tolist()):
        staged = _staged(algorithm, f"round {int(setting.round.number)}, client {number}")
        own = jax.tree.map(lambda a, place=place: a[place], clients)
        visits.append(visit(staged, setting, own, jnp.int32(number)))
    return gather(algorithm, jax.tree.map(lambda *leaves: jnp.stack(leaves), *visits), clients)


def _staged(algorithm: Algorithm, where: str) -> Algorithm:
    """The algorithm, with errors that say where they arose."""
    functions = {name: f for name, f in algorithm._asdict().items() if name != "aggregate"}
    return algorithm._replace(**{name: _named(f, where, name) for name, f in functions.items()})


def _named(function: Callable[..., Any], where: str, stage: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except StageError:
            raise
        except Exception as error:
            raise StageError(f"{where}, {stage}: {type(error).__name__}: {error}") from error

    return call
