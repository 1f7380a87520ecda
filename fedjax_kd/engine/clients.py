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

from fedjax_kd import tree
from fedjax_kd.backends import Backend
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
    SizeRange,
    Wire,
    mean,
)
from fedjax_kd.data.window import Window
from fedjax_kd.engine import aggregation
from fedjax_kd.engine.mesh import AXIS
from fedjax_kd.engine.schedule import Placement


class ClientResult(NamedTuple):
    """The result of one client's round."""

    message: Message
    weight: Float[Array, ""]
    metrics: Metrics
    wire: Wire
    client: Client
    present: Bool[Array, ""]  # whether this client has data, or is a client at all


class RoundInputs(NamedTuple):
    """What is the same for all clients of a round."""

    key: Key
    server: Server
    pool: Pool | Window
    round: Round
    backend: Backend
    sizes: SizeRange | None = None  # of all clients; None if loops may be of any length


class CohortResult(NamedTuple):
    """The results of one group's cohort, reduced."""

    sums: PyTree
    metrics: PyTree
    clients: Client
    used: Bool[Array, " K"]
    rejected: Bool[Array, " K"]
    votes: Float[Array, " K"]  # weights of the uploads that are used
    wire: Wire  # of each client, leaves [K]; zeros where nothing was sent


RunCohort = Callable[[Algorithm, Sequence[int], RoundInputs, Client, Placement], CohortResult]
"""(algorithm, widths of chunks, inputs, the cohort's client states, placement) -> result"""


def run_cohort(
    algorithm: Algorithm,
    widths: Sequence[int],
    inputs: RoundInputs,
    clients: Client,
    placement: Placement,
    *,
    mesh: Mesh | None = None,
) -> CohortResult:
    """All clients of a cohort: devices side by side, chunks in turn, a chunk at once."""
    if mesh is None:
        return _run_chunks(algorithm, widths, inputs, clients, placement)
    population = inputs.round.population

    def on_device(inputs: RoundInputs, clients: Client, placement: Placement) -> CohortResult:
        # `population` may size arrays, so it must stay a number where the rest is traced.
        inputs = inputs._replace(round=inputs.round._replace(population=population))
        result = _run_chunks(algorithm, widths, inputs, clients, placement)
        summed = jax.lax.psum(
            aggregation.select(algorithm.aggregate, result.sums, stacked=False), AXIS
        )
        return result._replace(
            sums=aggregation.join(algorithm.aggregate, summed, result.sums),
            metrics=jax.lax.psum(result.metrics, AXIS),
        )

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    # A window holds the clients of its own device alone.
    given = RoundInputs._make(
        (whole, whole, split if isinstance(inputs.pool, Window) else whole, whole, whole, whole)
    )
    sums = jax.tree.map(lambda r: split if r.stacked else whole, algorithm.aggregate)
    # check_vma: with replication tracking, gradients by the replicated model would be summed over
    # the devices. Clients never communicate here, so there is nothing to track.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(given, split, split),
        out_specs=CohortResult._make((sums, whole, split, split, split, split, split)),
        check_vma=False,
    )(inputs, clients, placement)


def _run_chunks(
    algorithm: Algorithm,
    widths: Sequence[int],
    inputs: RoundInputs,
    clients: Client,
    placement: Placement,
) -> CohortResult:
    """The clients of one device, chunk after chunk, the narrow ones first."""
    num_slots = len(placement.slots)
    if widths[0] == num_slots:
        return _run_chunk(algorithm, inputs, clients, placement.slots)

    def run_one(width: int, start: Array, i: Array, result: CohortResult) -> CohortResult:
        first = start + i * width
        part = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, first, width), (clients, placement.slots)
        )
        return _put_chunk(algorithm, result, _run_chunk(algorithm, inputs, *part), first)

    result = _empty_result(algorithm, widths[0], inputs, clients, placement.slots)
    start = jnp.int32(0)
    for n, width in enumerate(widths):
        # Where there is one width, all chunks run, and the loop has a length that XLA knows.
        count = placement.chunks[n] if len(widths) > 1 else num_slots // width
        result = jax.lax.fori_loop(0, count, partial(run_one, width, start), result)
        start += count * width
    return result


def _run_chunk(
    algorithm: Algorithm, inputs: RoundInputs, clients: Client, slots: Int[Array, " w"]
) -> CohortResult:
    """The clients of one chunk, vectorised."""
    one = partial(run_client, algorithm, inputs)
    if len(slots) == 1:  # not a vmap over one: loops keep their scalar conditions
        lone = one(*jax.tree.map(lambda a: a[0], (clients, slots)))
        results = jax.tree.map(lambda a: a[None], lone)
    else:
        results = jax.vmap(one)(clients, slots)
    return reduce_results(algorithm, inputs.backend, results, clients)


def _empty_result(
    algorithm: Algorithm,
    width: int,
    inputs: RoundInputs,
    clients: Client,
    slots: Int[Array, " k"],
) -> CohortResult:
    """The result before the first chunk: empty sums, and clients as they were."""
    num_slots = len(slots)
    part = jax.tree.map(lambda a: a[:width], (clients, slots))
    like = jax.eval_shape(partial(_run_chunk, algorithm, inputs), *part)
    kept = aggregation.select(algorithm.aggregate, like.sums, stacked=True)
    summed = aggregation.select(algorithm.aggregate, like.sums, stacked=False)
    kept = jax.tree.map(lambda s: jnp.zeros((num_slots, *s.shape[1:]), s.dtype), kept)
    summed, metrics = tree.zeros_like((summed, like.metrics))
    sums = aggregation.join(algorithm.aggregate, summed, kept)
    flags, votes = jnp.zeros(num_slots, bool), jnp.zeros(num_slots)
    wire = jax.tree.map(lambda s: jnp.zeros(num_slots, s.dtype), like.wire)
    return CohortResult(sums, metrics, clients, flags, flags, votes, wire)


def _put_chunk(
    algorithm: Algorithm, result: CohortResult, chunk: CohortResult, first: Int[Array, ""]
) -> CohortResult:
    """The result with a chunk's clients at their slots, from ``first`` on."""

    def put(whole: PyTree, part: PyTree) -> PyTree:
        return jax.tree.map(
            lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, first, 0), whole, part
        )

    def entry(rule: Any, whole: PyTree, part: PyTree) -> PyTree:
        return put(whole, part) if rule.stacked else tree.add(whole, part)

    return CohortResult(
        jax.tree.map(entry, algorithm.aggregate, result.sums, chunk.sums),
        tree.add(result.metrics, chunk.metrics),
        put(result.clients, chunk.clients),
        put(result.used, chunk.used),
        put(result.rejected, chunk.rejected),
        put(result.votes, chunk.votes),
        put(result.wire, chunk.wire),
    )


def run_client(
    algorithm: Algorithm, inputs: RoundInputs, client: Client, number: Int[Array, ""]
) -> ClientResult:
    """One client's round."""
    data = inputs.pool.of(number)._replace(sizes=inputs.sizes)
    message = algorithm.broadcast(inputs.server, number, inputs.round)
    key = jax.random.fold_in(inputs.key, number)
    upload, new = algorithm.client_update(key, message, client, data, inputs.round)
    weight, has_data = jnp.asarray(upload.weight, jnp.float32), data.size > 0
    # A client without data receives the message but sends nothing; an empty slot does neither.
    wire = Wire(
        _bytes_if(has_data, upload.wire.up),
        _bytes_if(number < inputs.round.population, upload.wire.down),
    )
    return ClientResult(upload.message, weight, upload.metrics, wire, new, has_data)


def _bytes_if(condition: Array, count: Any) -> Array | None:
    return None if count is None else jnp.where(condition, count, 0)


def reduce_results(
    algorithm: Algorithm, backend: Backend, results: ClientResult, before: Client
) -> CohortResult:
    """Reduces results whose leaves have a leading client axis.

    An upload that is not finite, or of a client without data, counts for nothing and leaves the
    client as it was.
    """

    def each() -> CohortResult:
        sent = (results.message, results.weight, results.client)
        used = results.present & jax.vmap(tree.is_finite)(sent)
        clean = results._replace(message=_or_zero(used, results.message))
        return _reduced(algorithm, clean, before, used)

    if backend.fixed_loops:
        return each()
    # A sum is finite only if every upload in it is: looking at each upload would cost another pass
    # over all messages, so it is done in the rare round whose sums are not finite.
    result = _reduced(algorithm, results, before, results.present)
    finite = _everywhere(tree.is_finite((result.sums, result.clients)))
    return jax.lax.cond(finite, lambda: result, each)


@jax.custom_batching.custom_vmap
def _everywhere(finite: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether all runs of a sweep are finite: with one answer for all, a branch stays one."""
    return finite


@_everywhere.def_vmap
def _in_a_sweep(size: int, batched: list[bool], finite: Bool[Array, " P"]) -> tuple[Array, bool]:
    del size, batched
    return finite.all(), False


def _reduced(
    algorithm: Algorithm, results: ClientResult, before: Client, used: Bool[Array, " k"]
) -> CohortResult:
    """The results that are used, reduced."""
    present = used.astype(jnp.float32)
    weight = _or_zero(used, results.weight)
    rules = algorithm.aggregate
    # Kept messages have to be zero in empty slots; in sums, these have no vote.
    message = jax.tree.map(
        lambda rule, sent: _or_zero(used, sent) if rule.stacked else sent, rules, results.message
    )
    return CohortResult(
        aggregation.accumulate(rules, message, weight, present),
        aggregation.accumulate(mean, _or_zero(used, results.metrics), weight, present),
        _either(used, results.client, before),
        used,
        results.present & ~used,
        weight,
        results.wire,
    )


def _either(used: Bool[Array, " k"], a: PyTree, b: PyTree) -> PyTree:
    """The clients' values of ``a`` where they are used, else those of ``b``."""
    return jax.vmap(tree.where)(used, a, b)


def _or_zero(used: Bool[Array, " k"], values: PyTree) -> PyTree:
    """The clients' values where they are used, else zeros."""
    return _either(used, values, tree.zeros_like(values))
