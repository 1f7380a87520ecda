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
from jaxtyping import Array, Int

from fedjax_kd import tree
from fedjax_kd.backends import Backend
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Pool,
    PyTree,
    Round,
    Server,
    SizeRange,
    Wire,
)
from fedjax_kd.data.sampling import Starts
from fedjax_kd.data.window import Window
from fedjax_kd.engine import aggregation
from fedjax_kd.engine.mesh import AXIS
from fedjax_kd.engine.results import ClientResult, CohortResult, reduce_results
from fedjax_kd.engine.schedule import Placement


class RoundInputs(NamedTuple):
    """What is the same for all clients of a round."""

    key: Key
    server: Server
    pool: Pool | Window
    round: Round
    backend: Backend
    sizes: SizeRange | None = None  # of all clients; None if loops may be of any length
    past: Server = ()  # servers from which some of the clients began, [V, ...]
    most_steps: Int[Array, " C"] | None = None  # that each client has time for

    def begun(self, number: Int[Array, ""], start: Starts | None) -> tuple[RoundInputs, Data]:
        """Server and round from which ONE client began, and its examples."""
        data = self.pool.of(number)._replace(sizes=self.sizes)
        if self.most_steps is not None:
            data = data._replace(most_steps=self.most_steps.at[number].get(mode="clip"))
        if start is None:
            return self, data
        then = jax.tree.map(lambda kept: kept.at[start.reads].get(mode="clip"), self.past)
        server = tree.where(start.lags == 0, self.server, then)
        number_then = self.round.number - start.lags
        round = self.round._replace(number=number_then, lag=start.lags)
        return self._replace(server=server, round=round), data


Who = tuple[Int[Array, " w"], Starts | None]
"""Slots with the numbers of clients, and when each began unless all begin together."""

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
    sums = jax.tree.map(lambda r: split if r.stacked else whole, algorithm.aggregate)
    # check_vma: with replication tracking, gradients by the replicated model would be summed over
    # the devices. Clients never communicate here, so there is nothing to track.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(specs_of(inputs), split, split),
        out_specs=CohortResult._make((sums, whole, split, split, split, split, split)),
        check_vma=False,
    )(inputs, clients, placement)


def specs_of(inputs: RoundInputs) -> RoundInputs:
    """How inputs lie on a mesh: a window holds the clients of its own device alone."""
    specs: dict[str, Any] = dict.fromkeys(RoundInputs._fields, PartitionSpec())
    if isinstance(inputs.pool, Window):
        specs["pool"] = PartitionSpec(AXIS)
    return RoundInputs(**specs)


def _run_chunks(
    algorithm: Algorithm,
    widths: Sequence[int],
    inputs: RoundInputs,
    clients: Client,
    placement: Placement,
) -> CohortResult:
    """The clients of one device, chunk after chunk, the narrow ones first."""
    num_slots, who = len(placement.slots), (placement.slots, placement.starts)
    if widths[0] == num_slots:
        return _run_chunk(algorithm, inputs, clients, who)

    def run_one(width: int, start: Array, i: Array, result: CohortResult) -> CohortResult:
        first = start + i * width
        part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, width), (clients, who))
        return _put_chunk(algorithm, result, _run_chunk(algorithm, inputs, *part), first)

    result = _empty_result(algorithm, widths[0], inputs, clients, who)
    start = jnp.int32(0)
    for n, width in enumerate(widths):
        # Where there is one width, all chunks run, and the loop has a length that XLA knows.
        count = placement.chunks[n] if len(widths) > 1 else num_slots // width
        result = jax.lax.fori_loop(0, count, partial(run_one, width, start), result)
        start += count * width
    return result


def _run_chunk(
    algorithm: Algorithm, inputs: RoundInputs, clients: Client, who: Who
) -> CohortResult:
    """The clients of one chunk, vectorised."""
    one = partial(run_client, algorithm, inputs)
    if len(who[0]) == 1:  # not a vmap over one: loops keep their scalar conditions
        lone = one(*jax.tree.map(lambda a: a[0], (clients, *who)))
        results = jax.tree.map(lambda a: a[None], lone)
    else:
        results = jax.vmap(one)(clients, *who)
    return reduce_results(algorithm, inputs.backend, results, clients)


def _empty_result(
    algorithm: Algorithm,
    width: int,
    inputs: RoundInputs,
    clients: Client,
    who: Who,
) -> CohortResult:
    """The result before the first chunk: empty sums, and clients as they were."""
    num_slots = len(who[0])
    part = jax.tree.map(lambda a: a[:width], (clients, who))
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
    algorithm: Algorithm,
    inputs: RoundInputs,
    client: Client,
    number: Int[Array, ""],
    start: Starts | None = None,
) -> ClientResult:
    """One client's round, from the server as it was when the client began."""
    inputs, data = inputs.begun(number, start)
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
