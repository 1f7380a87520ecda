"""Sums of metrics over rows and over clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Algorithm, Batch, Data, Pool, PyTree
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import Metric, Tally, as_metric, mean_of, sums_of, total_of
from fedjax_kd.metrics.metric import RowValues

Predict = Callable[[PyTree], Array]
"""x ``[B, ...]`` -> outputs ``[B, ...]``"""

Measures = Mapping[str, Metric]
"""What is measured, by name."""

_CLIENT_BATCH = 50


def measures_of(algorithm: Algorithm, federation: Federation, extra: Measures) -> Measures:
    """The loss of a method's task, the metrics of the federation's problem, and further ones.

    Raises:
      ValueError: if neither says what the loss is.
    """
    problem = federation.problem
    score = algorithm.score or problem.score
    if score is None:
        raise InputError(
            f"{federation.name} poses the problem {problem.name!r}, which has no loss of its own: "
            "give the task one as `example_loss`, (outputs, targets) -> a number an example."
        )
    return {"loss": mean_of(score, larger_is_better=False), **problem.metrics, **extra}


def own_metrics(given: Mapping[str, Metric | RowValues], federation: Federation) -> Measures:
    """A user's metrics, checked."""
    taken = {"loss", *federation.problem.measures} & given.keys()
    if taken:
        raise InputError(
            f"metrics names {', '.join(sorted(taken))}, which evaluation of this problem tells "
            "already: give yours another name."
        )
    return {name: as_metric(name, metric) for name, metric in given.items()}


def most_rows(pool: Pool | None) -> int:
    """The rows of the client that has the most."""
    return 0 if pool is None else int(np.max(pool.sizes, initial=0))


def by_row(measures: Measures) -> Measures:
    """Those in which each row stands alone."""
    return {name: metric for name, metric in measures.items() if not metric.of_all}


def of_all(measures: Measures) -> Measures:
    """Those in which a row's share depends on other rows: few ask for them, and they cost more."""
    return {name: metric for name, metric in measures.items() if metric.of_all}


def measure_rows(
    predict: Predict, measures: Measures, pool: Pool, at_once: int
) -> tuple[Tally, Array | None]:
    """Sums of each entry of ``pool.rows``, leaves ``[R, ...]``, by the metrics of single rows.

    And the outputs ``[R, ...]``, if another metric needs them; ``at_once`` entries in a batch.
    """
    everyone = Data(pool.x, pool.y, pool.rows, jnp.int32(0), jnp.int32(len(pool.rows)))
    batches = -(-len(pool.rows) // at_once)

    def one_batch(i: Array) -> tuple[Tally, Array | None]:
        positions = i * at_once + jnp.arange(at_once, dtype=jnp.int32)
        batch = everyone.take(positions, (positions < everyone.size).astype(jnp.float32))
        outputs = predict(batch.x)
        sums = sums_of(by_row(measures), outputs, batch.y, batch.mask)
        return sums, outputs if of_all(measures) else None

    found = jax.lax.map(one_batch, jnp.arange(batches, dtype=jnp.int32))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(pool.rows)], found)


def measure_all(measures: Measures, rows: Tally, outputs: Array | None, pool: Pool) -> Tally:
    """The sums of all entries of ``pool.rows``, from those of each entry and the outputs."""
    found = total_of(rows)
    if outputs is not None:
        y = targets_at(pool, pool.rows)
        mask = jnp.ones(len(pool.rows), jnp.float32)
        found |= total_of(sums_of(of_all(measures), outputs, y, mask))
    return found


def measure_clients(
    measures: Measures, rows: Tally, outputs: Array | None, pool: Pool, capacity: int
) -> Tally:
    """The sums of each client's entries of ``pool.rows``, leaves ``[C, ...]``.

    Args:
      measures: what is measured.
      rows: the sums of each entry, leaves ``[R, ...]``.
      outputs: of each entry ``[R, ...]``, if any metric needs them.
      pool: whose entries are the clients' own.
      capacity: the most entries of a client.
    """
    num_clients = len(pool.sizes)
    # Entries after the last client's, which fill a pool up, are of no client and count nothing.
    owner = jnp.searchsorted(jnp.cumsum(pool.sizes), jnp.arange(len(pool.rows)), side="right")
    found = jax.tree.map(lambda a: jax.ops.segment_sum(a, owner, num_clients), rows)
    if outputs is None:
        return found

    def one(who: tuple[Array, Array]) -> Tally:
        start, size = who
        places = jnp.arange(capacity, dtype=jnp.int32)
        at = jnp.minimum(start + places, len(pool.rows) - 1)
        y = targets_at(pool, pool.rows[at])
        return total_of(sums_of(of_all(measures), outputs[at], y, _first(places, size)))

    return found | jax.lax.map(one, (pool.starts, pool.sizes))


def measure_own(predict: Predict, measures: Measures, data: Data, capacity: int) -> Tally:
    """The sums of one client's rows, under one model.

    Args:
      predict: the model.
      measures: what is measured.
      data: the client's rows.
      capacity: the most rows of a client.
    """

    def rows_of(batch: Batch) -> Tally:
        sums = sums_of(by_row(measures), predict(batch.x), batch.y, batch.mask)
        return total_of(sums)

    def batch_at(i: Array) -> Batch:
        places = i * _CLIENT_BATCH + jnp.arange(_CLIENT_BATCH, dtype=jnp.int32)
        return data.take(places % jnp.maximum(data.size, 1), _first(places, data.size))

    start = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype),
        jax.eval_shape(lambda: rows_of(batch_at(jnp.int32(0)))),
    )
    found = over_rows(data, _CLIENT_BATCH, lambda sums, b, _: tree.add(sums, rows_of(b)), start)
    if not of_all(measures):
        return found
    pieces = jnp.arange(-(-capacity // _CLIENT_BATCH), dtype=jnp.int32)
    outputs, y, mask = jax.tree.map(
        lambda a: a.reshape(-1, *a.shape[2:]),
        jax.lax.map(lambda i: (predict((b := batch_at(i)).x), b.y, b.mask), pieces),
    )
    return found | total_of(sums_of(of_all(measures), outputs, y, mask))


def targets_at(pool: Pool, rows: Array) -> PyTree:
    """The targets of some rows of a pool."""
    return jax.tree.map(lambda a: a.at[rows].get(mode="clip"), pool.y)


def _first(places: Array, size: Array) -> Array:
    """1 at the places of a client's rows, 0 after them."""
    return (places < size).astype(jnp.float32)
