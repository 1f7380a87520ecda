"""One round of a federation as one traceable function: the clients, then the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from fedjax_kd import tree
from fedjax_kd.backends import Backend
from fedjax_kd.core import (
    Algorithm,
    Client,
    Key,
    Metrics,
    Pool,
    PyTree,
    Round,
    SizeRange,
    State,
    Wire,
    mean,
)
from fedjax_kd.data.sampling import Starts
from fedjax_kd.data.window import Window
from fedjax_kd.engine import aggregation
from fedjax_kd.engine.choice import choose
from fedjax_kd.engine.clients import RoundInputs, RunCohort, run_cohort
from fedjax_kd.engine.results import CohortResult
from fedjax_kd.engine.schedule import Layout, Placement


class Report(NamedTuple):
    """The metrics and counts of one round."""

    metrics: Metrics  # weighted means over the uploads that were used
    used: Float[Array, " G"]  # uploads in the aggregate, a group
    rejected: Float[Array, " G"]  # uploads left out because they were not finite, a group
    wire: tuple[Wire, ...] = ()  # of each group's clients, leaves [K]; summed on the host, exactly


class Resident(NamedTuple):
    """Data that stay on the device throughout a run."""

    pool: Pool | Window
    public: PyTree = None  # what belongs to no client


RoundFn = Callable[[Key, State, Resident, Sequence[Placement], Array], tuple[State, Report]]
"""(key, state, resident data, placement of each group, round number) -> (state, report)"""


def make_round(
    groups: Sequence[Algorithm],
    layout: Layout,
    backend: Backend,
    *,
    sizes: SizeRange | None = None,
    most_steps: NDArray[np.int32] | None = None,
    mesh: Mesh | None = None,
    run: RunCohort | None = None,
) -> RoundFn:
    """Builds the round function of a federation; `fedjax_kd.train.train` is the usual caller.

    Args:
      groups: an algorithm a group of clients; the server functions of the first are used.
      layout: how cohorts are placed, from `fedjax_kd.engine.schedule.lay_out`.
      backend: what the devices want.
      sizes: the clients' numbers of examples, if loops are to be of known length.
      most_steps: local steps that each client has time for, ``[C]``.
      mesh: devices to divide the cohort over, along the axis ``clients``.
      run: how a group's clients are run; the default is `run_cohort` on ``mesh``.

    Returns:
      A pure function, to be jitted. Placements come from ``layout.place``.
    """
    run_group = partial(run_cohort, mesh=mesh) if run is None else run

    def group_result(
        g: int, inputs: RoundInputs, everyone: Client, placement: Placement
    ) -> CohortResult:
        where = _state_rows(layout, g, placement.slots)
        clients = jax.tree.map(lambda a: a.at[where].get(mode="clip"), everyone)
        result = run_group(groups[g], layout.chunks[g].widths, inputs, clients, placement)
        kept = jax.tree.map(
            lambda a, new: a.at[where].set(new, mode="drop"), everyone, result.clients
        )
        return result._replace(clients=kept)

    def round_fn(
        key: Key, state: State, resident: Resident, placements: Sequence[Placement], number: Array
    ) -> tuple[State, Report]:
        key_clients, key_server = jax.random.split(key)
        asked = jnp.concatenate([placement.slots for placement in placements])
        expected = (asked < layout.population).astype(jnp.float32)
        unknown = jnp.zeros_like(expected)
        round = Round(number, asked, expected, unknown, layout.population, resident.public)
        limits = None if most_steps is None else jnp.asarray(most_steps)
        inputs = RoundInputs(
            *(key_clients, state.server, resident.pool, round, backend, sizes),
            past=state.past,
            most_steps=limits,
        )
        if groups[0].choice is not None:
            widths = [chunks.widths for chunks in layout.chunks]
            placements = choose(groups[0].choice, inputs, placements, widths, mesh)
            inputs = inputs._replace(round=_asking(round, placements))
        cohorts = [group_result(g, inputs, state.clients[g], p) for g, p in enumerate(placements)]
        starts = [p.starts for p in placements if p.starts is not None]
        after, report = _close_round(groups, key_server, _with_lags(inputs, starts), cohorts)
        return after._replace(past=_kept(state, starts)), report

    return round_fn


def _with_lags(inputs: RoundInputs, starts: Sequence[Starts]) -> RoundInputs:
    """What the server knows of a cohort that did not begin together."""
    if not starts:
        return inputs
    lag = jnp.concatenate([each.lags for each in starts])
    return inputs._replace(round=inputs.round._replace(lag=lag))


def _kept(state: State, starts: Sequence[Starts]) -> PyTree:
    """The servers of the past, with the present one if any client works on from it.

    It is kept before the server's step, and whatever comes of that.
    """
    if not starts:
        return state.past
    where = starts[0].write[0]
    return jax.tree.map(lambda a, new: a.at[where].set(new, mode="drop"), state.past, state.server)


def _asking(round: Round, placements: Sequence[Placement]) -> Round:
    """The round with the clients that these slots hold."""
    asked = jnp.concatenate([placement.slots for placement in placements])
    return round._replace(cohort=asked, present=(asked < round.population).astype(jnp.float32))


def _close_round(
    groups: Sequence[Algorithm], key: Key, inputs: RoundInputs, cohorts: Sequence[CohortResult]
) -> tuple[State, Report]:
    """Reduces the uploads over all groups and lets the server act on them."""
    used = jnp.concatenate([p.used for p in cohorts]).astype(jnp.float32)
    update = aggregation.finalise(
        *aggregation.merge([a.aggregate for a in groups], [p.sums for p in cohorts])
    )
    metrics = aggregation.finalise(
        *aggregation.merge([mean] * len(groups), [p.metrics for p in cohorts])
    )
    votes = jnp.concatenate([p.votes for p in cohorts])
    round = inputs.round._replace(present=used, votes=votes)
    server = groups[0].server_update(key, inputs.server, update, round)
    # A round without a usable upload leaves the server as it was.
    server = tree.where(used.sum() > 0, server, inputs.server)
    counts = [jnp.stack([p.used.sum(), p.rejected.sum()]).astype(jnp.float32) for p in cohorts]
    used_of, rejected_of = jnp.stack(counts, axis=1)
    report = Report(metrics, used_of, rejected_of, tuple(p.wire for p in cohorts))
    return State(server, tuple(p.clients for p in cohorts)), report


def _state_rows(layout: Layout, group: int, slots: Int[Array, " K"]) -> Int[Array, " K"]:
    """The rows of these slots' clients in their group's state; past its end if they have none."""
    members = layout.members[group]
    if len(members) == layout.population:
        return slots
    rows = np.full(layout.population + 1, len(members), np.int32)
    rows[members] = np.arange(len(members), dtype=np.int32)
    return jnp.asarray(rows)[slots]
