"""The results of clients, and which of them count: those of clients with data that are finite."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedjax_kd import tree
from fedjax_kd.backends import Backend
from fedjax_kd.core import Algorithm, Client, Message, Metrics, PyTree, Wire, mean
from fedjax_kd.engine import aggregation


class ClientResult(NamedTuple):
    """The result of one client's round."""

    message: Message
    weight: Float[Array, ""]
    metrics: Metrics
    wire: Wire
    client: Client
    present: Bool[Array, ""]  # whether this client has data, or is a client at all


class CohortResult(NamedTuple):
    """The results of one group's cohort, reduced."""

    sums: PyTree
    metrics: PyTree
    clients: Client
    used: Bool[Array, " K"]
    rejected: Bool[Array, " K"]
    votes: Float[Array, " K"]  # weights of the uploads that are used
    wire: Wire  # of each client, leaves [K]; zeros where nothing was sent


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
