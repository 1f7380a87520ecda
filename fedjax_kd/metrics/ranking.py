"""What depends on the order of all rows: areas under curves, precision at ranks, retrieval."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from fedjax_kd.metrics.metric import Metric, mean_known, ratio


def wins(
    scores: Float[Array, "N L"], positive: Float[Array, "N L"], weights: Float[Array, "N L"]
) -> tuple[Array, Array, Array]:
    """Of each row and label: negatives ranked below it if it is positive, itself, if negative.

    Equal scores count half. What has weight 0 counts nothing.
    """
    kept = weights > 0
    yes = jnp.where(kept, positive, 0.0)
    no = jnp.where(kept, 1.0 - positive, 0.0)

    def below(own: Array, negative: Array) -> Array:
        others = jnp.sort(jnp.where(negative > 0, own, jnp.inf))
        low, high = (jnp.searchsorted(others, own, side=side) for side in ("left", "right"))
        return (low + high).astype(jnp.float32) / 2

    return yes * jax.vmap(below, 1, 1)(scores, no), yes, no


def area_under_curve(sums: Any) -> NDArray[np.float64]:
    """The mean over labels of the area under the ROC curve, from sums of `wins`.

    Labels that no row has, or all have, are left out; NaN if that leaves none.
    """
    won, yes, no = (np.asarray(part, np.float64) for part in sums)
    return mean_known(ratio(won, yes * no))


def precisions(
    scores: Float[Array, "N L"], positive: Float[Array, "N L"], weights: Float[Array, "N L"]
) -> tuple[Array, Array]:
    """Of each positive row and label: the precision among rows ranked as high; and itself.

    Rows of equal score are ranked together. What has weight 0 counts nothing.
    """
    kept = weights > 0
    yes = jnp.where(kept, positive, 0.0)

    def at_rank(own: Array, positive: Array, kept: Array) -> Array:
        def as_high(counted: Array) -> Array:
            found = jnp.sort(jnp.where(counted, own, -jnp.inf))
            return (len(own) - jnp.searchsorted(found, own, side="left")).astype(jnp.float32)

        return as_high(positive > 0) / jnp.maximum(as_high(kept), 1.0)

    return yes * jax.vmap(at_rank, 1, 1)(scores, yes, kept), yes


def average_precision(sums: Any) -> NDArray[np.float64]:
    """The mean over labels of the average precision, from sums of `precisions`.

    Labels that no row has are left out; NaN if that leaves none.
    """
    at_ranks, yes = (np.asarray(part, np.float64) for part in sums)
    return mean_known(ratio(at_ranks, yes))


def _retrieved(
    outputs: Float[Array, "N D"], y: Int[Array, " N"], mask: Float[Array, " N"]
) -> tuple[Array, Array, Array]:
    """Each row as a query among all others, by cosine: first right, average precision, counted."""
    points = outputs.astype(jnp.float32)
    points = points / jnp.maximum(jnp.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    rows = jnp.arange(len(y))

    def query(own: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row, point, label = own
        others = (mask > 0) & (rows != row) & (y >= 0)
        near = jnp.where(others, points @ point, -jnp.inf)
        same = others & (y == label)
        column = (a.astype(jnp.float32)[:, None] for a in (near, same, others))
        at_ranks, yes = precisions(*column)
        counted = (same.any() & (mask[row] > 0) & (label >= 0)).astype(jnp.float32)
        first = same[near.argmax()].astype(jnp.float32)
        return counted * first, counted * at_ranks.sum() / jnp.maximum(yes.sum(), 1.0), counted

    return jax.lax.map(query, (rows, points, y), batch_size=64)


rank_1 = Metric(
    _retrieved,
    lambda sums: ratio(sums[0], sums[2]),
    of_all=True,
    about="The share of rows whose nearest other row, by cosine, has the same identity.",
)

retrieval_map = Metric(
    _retrieved,
    lambda sums: ratio(sums[1], sums[2]),
    of_all=True,
    about="The mean over rows of the average precision of those with the same identity.",
)
