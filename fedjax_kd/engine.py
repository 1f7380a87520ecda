"""One round of a federation as one traceable function.

The client functions of an `Algorithm` are vectorised over a chunk of clients (``vmap``), chunks run
one after another (``scan``), and the cohort is divided over the devices of a mesh (``shard_map``).
None of this changes a result: keys depend on the client's number alone, and reductions are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fedjax_kd import reduce, tree
from fedjax_kd.cohort import Layout
from fedjax_kd.core import (
    Algorithm,
    Client,
    Key,
    Message,
    Metrics,
    Pool,
    PyTree,
    Round,
    Server,
    State,
    mean,
)

AXIS = "clients"


class Report(NamedTuple):
    """What a round tells about itself."""

    metrics: Metrics  # weighted means over the uploads that were used
    used: Float[Array, " G"]  # uploads in the aggregate, a group
    rejected: Float[Array, " G"]  # uploads left out because they were not finite, a group


class Visit(NamedTuple):
    """What came of one client's round."""

    message: Message
    weight: Float[Array, ""]
    metrics: Metrics
    client: Client
    used: Bool[Array, ""]
    rejected: Bool[Array, ""]


class Resident(NamedTuple):
    """What lies on the device throughout a run."""

    pool: Pool
    public: PyTree = None  # unlabelled `Data` of the server


class Setting(NamedTuple):
    """What is the same for all clients of a round."""

    key: Key
    server: Server
    pool: Pool
    round: Round


class Phase(NamedTuple):
    """What came of one group's cohort."""

    sums: PyTree
    metrics: PyTree
    clients: Client
    used: Bool[Array, " K"]
    rejected: Bool[Array, " K"]


PhaseFn = Callable[[Algorithm, int, Setting, Client, Array], Phase]
"""(algorithm, chunk width, setting, the cohort's client states, seats) -> phase"""

RoundFn = Callable[[Key, State, Resident, Sequence[Any], Array], tuple[State, Report]]
"""(key, state, resident data, seats of each group, round number) -> (state, report)"""


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh of this process's devices (all of them by default) along the axis ``clients``."""
    count = jax.device_count() if devices is None else devices
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(arrays: PyTree, mesh: Mesh | None) -> PyTree:
    """The arrays on every device of a mesh; one that occurs twice is copied once."""
    if mesh is None:
        return arrays
    leaves, structure = jax.tree.flatten(arrays)
    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = {i: jax.device_put(a, everywhere) for i, a in {id(a): a for a in leaves}.items()}
    return jax.tree.unflatten(structure, [placed[id(a)] for a in leaves])


def make_round(
    groups: Sequence[Algorithm],
    layout: Layout,
    *,
    mesh: Mesh | None = None,
    phase: PhaseFn | None = None,
) -> RoundFn:
    """Builds the round function of a federation; `fedjax_kd.train.train` is the usual caller.

    Args:
      groups: an algorithm a group of clients; the server functions of the first are used.
      layout: how cohorts are seated, from `fedjax_kd.cohort.lay_out`.
      mesh: devices to divide the cohort over, along the axis ``clients``.
      phase: how a group's clients are run; the default is `client_phase` on ``mesh``.

    Returns:
      A pure function, to be jitted. Seats come from ``layout.seats``, an array a group.
    """
    run = partial(client_phase, mesh=mesh) if phase is None else phase

    def group_phase(g: int, setting: Setting, everyone: Client, seats: Array) -> Phase:
        where = _slots(layout, g, seats)
        clients = jax.tree.map(lambda a: a.at[where].get(mode="clip"), everyone)
        done = run(groups[g], layout.width[g], setting, clients, seats)
        kept = jax.tree.map(
            lambda a, new: a.at[where].set(new, mode="drop"), everyone, done.clients
        )
        return done._replace(clients=kept)

    def round_fn(
        key: Key, state: State, resident: Resident, seats: Sequence[Array], number: Array
    ) -> tuple[State, Report]:
        key_clients, key_server = jax.random.split(key)
        asked = jnp.concatenate(list(seats))
        expected = (asked < layout.population).astype(jnp.float32)
        round = Round(number, asked, expected, layout.population, resident.public)
        setting = Setting(key_clients, state.server, resident.pool, round)
        phases = [group_phase(g, setting, state.clients[g], s) for g, s in enumerate(seats)]
        return _close_round(groups, key_server, setting, phases)

    return round_fn


def _close_round(
    groups: Sequence[Algorithm], key: Key, setting: Setting, phases: Sequence[Phase]
) -> tuple[State, Report]:
    """Reduces the uploads over all groups and lets the server act on them."""
    used = jnp.concatenate([p.used for p in phases]).astype(jnp.float32)
    update = reduce.done(*reduce.merge([a.aggregate for a in groups], [p.sums for p in phases]))
    metrics = reduce.done(*reduce.merge([mean] * len(groups), [p.metrics for p in phases]))
    round = setting.round._replace(present=used)
    server = groups[0].server_update(key, setting.server, update, round)
    # A round in which nobody's upload could be used leaves the server as it was.
    server = tree.where(used.sum() > 0, server, setting.server)
    counts = [jnp.stack([p.used.sum(), p.rejected.sum()]).astype(jnp.float32) for p in phases]
    report = Report(metrics, *jnp.stack(counts, axis=1))
    return State(server, tuple(p.clients for p in phases)), report


def _slots(layout: Layout, group: int, seats: Int[Array, " K"]) -> Int[Array, " K"]:
    """Where the clients of these seats stand in their group's state; past its end if nowhere."""
    members = layout.members[group]
    if len(members) == layout.population:
        return seats
    slots = np.full(layout.population + 1, len(members), np.int32)
    slots[members] = np.arange(len(members), dtype=np.int32)
    return jnp.asarray(slots)[seats]


def client_phase(
    algorithm: Algorithm,
    width: int,
    setting: Setting,
    clients: Client,
    seats: Int[Array, " K"],
    *,
    mesh: Mesh | None = None,
) -> Phase:
    """All clients of a cohort: devices side by side, chunks in turn, a chunk at once."""
    if mesh is None:
        return _chunks(algorithm, width, setting, clients, seats)
    population = setting.round.population

    def on_device(setting: Setting, clients: Client, seats: Array) -> Phase:
        # `population` may size arrays, so it must stay a number where the rest is traced.
        setting = setting._replace(round=setting.round._replace(population=population))
        phase = _chunks(algorithm, width, setting, clients, seats)
        summed = jax.lax.psum(reduce.select(algorithm.aggregate, phase.sums, stacked=False), AXIS)
        return phase._replace(
            sums=reduce.join(algorithm.aggregate, summed, phase.sums),
            metrics=jax.lax.psum(phase.metrics, AXIS),
        )

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    sums = jax.tree.map(lambda r: split if r.stacked else whole, algorithm.aggregate)
    # check_vma: with replication tracking, gradients by the replicated model would be summed over
    # the devices. Clients never communicate here, so there is nothing to track.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=Phase._make((sums, whole, split, split, split)),
        check_vma=False,
    )(setting, clients, seats)


def _chunks(
    algorithm: Algorithm, width: int, setting: Setting, clients: Client, seats: Int[Array, " k"]
) -> Phase:
    """The clients of one device, ``width`` at a time."""
    turns = len(seats) // width
    one = partial(visit, algorithm, setting)

    def chunk(clients: Client, seats: Array) -> Phase:
        if width == 1:  # not a vmap over one: loops keep their scalar conditions
            lone = one(*jax.tree.map(lambda a: a[0], (clients, seats)))
            return gather(algorithm, jax.tree.map(lambda a: a[None], lone))
        return gather(algorithm, jax.vmap(one)(clients, seats))

    if turns == 1:
        return chunk(clients, seats)

    def turn(sums: PyTree, chunked: tuple[Client, Array]) -> tuple[PyTree, Phase]:
        phase = chunk(*chunked)
        summed = reduce.select(algorithm.aggregate, phase.sums, stacked=False)
        kept = reduce.select(algorithm.aggregate, phase.sums, stacked=True)
        return tree.add(sums, (summed, phase.metrics)), phase._replace(sums=kept, metrics=())

    chunked = jax.tree.map(lambda a: a.reshape(turns, width, *a.shape[1:]), (clients, seats))
    first = jax.eval_shape(chunk, *jax.tree.map(lambda a: a[0], chunked))
    summed = reduce.select(algorithm.aggregate, first.sums, stacked=False)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (summed, first.metrics))
    (summed, metrics), rest = jax.lax.scan(turn, zeros, chunked)
    rest = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rest)
    return rest._replace(sums=reduce.join(algorithm.aggregate, summed, rest.sums), metrics=metrics)


def gather(algorithm: Algorithm, visits: Visit) -> Phase:
    """Reduces visits whose leaves have a leading client axis."""
    used = visits.used.astype(jnp.float32)
    return Phase(
        reduce.lift(algorithm.aggregate, visits.message, visits.weight, used),
        reduce.lift(mean, visits.metrics, visits.weight, used),
        visits.client,
        visits.used,
        visits.rejected,
    )


def visit(algorithm: Algorithm, setting: Setting, client: Client, number: Int[Array, ""]) -> Visit:
    """One client's round. An upload that is not finite, or of a client without data, counts for
    nothing and leaves the client as it was.
    """
    data = setting.pool.of(number)
    message = algorithm.broadcast(setting.server, number)
    key = jax.random.fold_in(setting.key, number)
    upload, new = algorithm.client_update(key, message, client, data, setting.round)
    present = data.size > 0
    weight = jnp.asarray(upload.weight, jnp.float32)
    finite = tree.is_finite((upload.message, weight, new))
    used = present & finite
    return Visit(
        tree.where(used, upload.message, tree.zeros_like(upload.message)),
        jnp.where(used, weight, 0),
        tree.where(used, upload.metrics, tree.zeros_like(upload.metrics)),
        tree.where(used, new, client),
        used,
        present & ~finite,
    )
