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
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from fedjax_kd.backends import Backend
from fedjax_kd.core import Algorithm, Client, Key, State
from fedjax_kd.engine.clients import RoundInputs, run_client
from fedjax_kd.engine.results import CohortResult, reduce_results
from fedjax_kd.engine.round import Report, Resident, RoundFn, make_round
from fedjax_kd.engine.schedule import Layout, Placement


class StageError(RuntimeError):
    """An error inside a function of an algorithm; what was raised there is its ``__cause__``."""


def make_debug_round(
    groups: Sequence[Algorithm],
    layout: Layout,
    backend: Backend,
    most_steps: NDArray[np.int32] | None = None,
) -> RoundFn:
    """The counterpart of `fedjax_kd.engine.round.make_round`, with the same results up to rounding.

    Raises:
      StageError: when called, if a function of an algorithm raises.
    """

    def round_fn(
        key: Key, state: State, resident: Resident, placements: Sequence[Placement], number: Array
    ) -> tuple[State, Report]:
        where = f"round {int(number)}, the server"
        staged = [
            a._replace(server_update=_named(a.server_update, where, "server_update"))
            for a in groups
        ]
        run = make_round(staged, layout, backend, most_steps=most_steps, run=_run_in_python)
        with jax.disable_jit():
            return run(key, state, resident, placements, number)

    return round_fn


def _run_in_python(
    algorithm: Algorithm,
    widths: Sequence[int],
    inputs: RoundInputs,
    clients: Client,
    placement: Placement,
) -> CohortResult:
    """Every client of the cohort in turn."""
    del widths
    results = []
    for place, number in enumerate(placement.slots.tolist()):
        staged = _staged(algorithm, f"round {int(inputs.round.number)}, client {number}")
        own = jax.tree.map(lambda a, place=place: a[place], clients)
        start = jax.tree.map(lambda a, place=place: a[place], placement.starts)
        results.append(run_client(staged, inputs, own, jnp.int32(number), start))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    return reduce_results(algorithm, inputs.backend, stacked, clients)


def _staged(algorithm: Algorithm, where: str) -> Algorithm:
    """The algorithm, with errors that say where they arose."""
    functions = {name: f for name, f in algorithm._asdict().items() if callable(f)}
    staged: dict[str, Any] = {n: _named(f, where, n) for n, f in functions.items()}
    return algorithm._replace(**staged)


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
