"""The clients' part of a round: all clients of a cohort, chunk by chunk, reduced to sums.

The client functions of an `Algorithm` are vectorised over a chunk of clients (``vmap``), chunks run
one after another (a loop), and the cohort is divided over the devices of a mesh (``shard_map``).
None of this changes a result: keys depend on the client's number alone, and reductions are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fedjax_kd import reduce, tree
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
    mean,
)
from fedjax_kd.data.window import Window
from fedjax_kd.seating import Seating

AXIS = "clients"


class Visit(NamedTuple):
    """What came of one client's round."""

    message: Message
    weight: Float[Array, ""]
    metrics: Metrics
    client: Client
    present: Bool[Array, ""]  # whether this client has data, or is a client at all


class Setting(NamedTuple):
    """What is the same for all clients of a round."""

    key: Key
    server: Server
    pool: Pool | Window
    round: Round


class Phase(NamedTuple):
    """What came of one group's cohort."""

    sums: PyTree
    metrics: PyTree
    clients: Client
    used: Bool[Array, " K"]
    rejected: Bool[Array, " K"]


PhaseFn = Callable[[Algorithm, Sequence[int], Setting, Client, Seating], Phase]
"""(algorithm, widths of chunks, setting, the cohort's client states, seating) -> phase"""


def client_phase(
    algorithm: Algorithm,
    widths: Sequence[int],
    setting: Setting,
    clients: Client,
    seating: Seating,
    *,
    mesh: Mesh | None = None,
) -> Phase:
    """All clients of a cohort: devices side by side, chunks in turn, a chunk at once."""
    if mesh is None:
        return _chunks(algorithm, widths, setting, clients, seating)
    population = setting.round.population

    def on_device(setting: Setting, clients: Client, seating: Seating) -> Phase:
        # `population` may size arrays, so it must stay a number where the rest is traced.
        setting = setting._replace(round=setting.round._replace(population=population))
        phase = _chunks(algorithm, widths, setting, clients, seating)
        summed = jax.lax.psum(reduce.select(algorithm.aggregate, phase.sums, stacked=False), AXIS)
        return phase._replace(
            sums=reduce.join(algorithm.aggregate, summed, phase.sums),
            metrics=jax.lax.psum(phase.metrics, AXIS),
        )

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    # A window holds the clients of its own device alone.
    given = Setting._make(
        (whole, whole, split if isinstance(setting.pool, Window) else whole, whole)
    )
    sums = jax.tree.map(lambda r: split if r.stacked else whole, algorithm.aggregate)
    # check_vma: with replication tracking, gradients by the replicated model would be summed over
    # the devices. Clients never communicate here, so there is nothing to track.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(given, split, split),
        out_specs=Phase._make((sums, whole, split, split, split)),
        check_vma=False,
    )(setting, clients, seating)


def _chunks(
    algorithm: Algorithm,
    widths: Sequence[int],
    setting: Setting,
    clients: Client,
    seating: Seating,
) -> Phase:
    """The clients of one device, chunk after chunk, the narrow ones first."""
    places = len(seating.seats)
    if widths[0] == places:
        return _at_once(algorithm, setting, clients, seating.seats)

    def turn(width: int, start: Array, i: Array, phase: Phase) -> Phase:
        first = start + i * width
        part = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, first, width), (clients, seating.seats)
        )
        return _fill(algorithm, phase, _at_once(algorithm, setting, *part), first)

    phase, start = _nobody(algorithm, widths[0], setting, clients, seating.seats), jnp.int32(0)
    for n, width in enumerate(widths):
        # Where there is one width, all chunks run, and the loop has a length that XLA knows.
        count = seating.chunks[n] if len(widths) > 1 else places // width
        phase = jax.lax.fori_loop(0, count, partial(turn, width, start), phase)
        start += count * width
    return phase


def _at_once(
    algorithm: Algorithm, setting: Setting, clients: Client, seats: Int[Array, " w"]
) -> Phase:
    """The clients of one chunk, vectorised."""
    one = partial(visit, algorithm, setting)
    if len(seats) == 1:  # not a vmap over one: loops keep their scalar conditions
        lone = one(*jax.tree.map(lambda a: a[0], (clients, seats)))
        return gather(algorithm, jax.tree.map(lambda a: a[None], lone), clients)
    return gather(algorithm, jax.vmap(one)(clients, seats), clients)


def _nobody(
    algorithm: Algorithm,
    width: int,
    setting: Setting,
    clients: Client,
    seats: Int[Array, " k"],
) -> Phase:
    """The phase before its first chunk: empty sums, and clients as they were."""
    places = len(seats)
    part = jax.tree.map(lambda a: a[:width], (clients, seats))
    like = jax.eval_shape(partial(_at_once, algorithm, setting), *part)
    kept = reduce.select(algorithm.aggregate, like.sums, stacked=True)
    summed = reduce.select(algorithm.aggregate, like.sums, stacked=False)
    kept = jax.tree.map(lambda s: jnp.zeros((places, *s.shape[1:]), s.dtype), kept)
    summed, metrics = tree.zeros_like((summed, like.metrics))
    unused = jnp.zeros(places, bool)
    sums = reduce.join(algorithm.aggregate, summed, kept)
    return Phase(sums, metrics, clients, unused, unused)


def _fill(algorithm: Algorithm, phase: Phase, chunk: Phase, first: Int[Array, ""]) -> Phase:
    """The phase with a chunk's clients at their places, from ``first`` on."""

    def put(whole: PyTree, part: PyTree) -> PyTree:
        return jax.tree.map(
            lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, first, 0), whole, part
        )

    def entry(rule: Any, whole: PyTree, part: PyTree) -> PyTree:
        return put(whole, part) if rule.stacked else tree.add(whole, part)

    return Phase(
        jax.tree.map(entry, algorithm.aggregate, phase.sums, chunk.sums),
        tree.add(phase.metrics, chunk.metrics),
        put(phase.clients, chunk.clients),
        put(phase.used, chunk.used),
        put(phase.rejected, chunk.rejected),
    )


def visit(algorithm: Algorithm, setting: Setting, client: Client, number: Int[Array, ""]) -> Visit:
    """One client's round."""
    data = setting.pool.of(number)
    message = algorithm.broadcast(setting.server, number)
    key = jax.random.fold_in(setting.key, number)
    upload, new = algorithm.client_update(key, message, client, data, setting.round)
    weight = jnp.asarray(upload.weight, jnp.float32)
    return Visit(upload.message, weight, upload.metrics, new, data.size > 0)


def gather(algorithm: Algorithm, visits: Visit, before: Client) -> Phase:
    """Reduces visits whose leaves have a leading client axis.

    An upload that is not finite, or of a client without data, counts for nothing and leaves the
    client as it was. Where all sums are finite, so is every upload: only else is each looked at.
    """

    def each() -> Phase:
        sent = (visits.message, visits.weight, visits.client)
        used = visits.present & jax.vmap(tree.is_finite)(sent)
        clean = visits._replace(message=_or_zero(used, visits.message))
        return _reduced(algorithm, clean, before, used)

    phase = _reduced(algorithm, visits, before, visits.present)
    fine = _everywhere(tree.is_finite((phase.sums, phase.clients)))
    return jax.lax.cond(fine, lambda: phase, each)


@jax.custom_batching.custom_vmap
def _everywhere(fine: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether all is fine in every run of a sweep: with one answer for all, a branch stays one."""
    return fine


@_everywhere.def_vmap
def _in_a_sweep(size: int, batched: list[bool], fine: Bool[Array, " P"]) -> tuple[Array, bool]:
    del size, batched
    return fine.all(), False


def _reduced(algorithm: Algorithm, visits: Visit, before: Client, used: Bool[Array, " k"]) -> Phase:
    """The visits that are used, reduced."""
    there = used.astype(jnp.float32)
    weight = _or_zero(used, visits.weight)
    rules = algorithm.aggregate
    # Kept messages have to be zero where nobody is; in sums, those have no vote.
    message = jax.tree.map(
        lambda rule, sent: _or_zero(used, sent) if rule.stacked else sent, rules, visits.message
    )
    return Phase(
        reduce.lift(rules, message, weight, there),
        reduce.lift(mean, _or_zero(used, visits.metrics), weight, there),
        _either(used, visits.client, before),
        used,
        visits.present & ~used,
    )


def _either(used: Bool[Array, " k"], a: PyTree, b: PyTree) -> PyTree:
    """The clients' values of ``a`` where they are used, else those of ``b``."""
    return jax.vmap(tree.where)(used, a, b)


def _or_zero(used: Bool[Array, " k"], values: PyTree) -> PyTree:
    """The clients' values where they are used, else zeros."""
    return _either(used, values, tree.zeros_like(values))
