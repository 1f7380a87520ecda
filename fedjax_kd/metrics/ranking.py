"""What depends on the order of all rows: areas under curves, precision at ranks, retrieval."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from fedjax_kd.metrics.metric import Metric, Sighting, mean_known, ratio

_RANKS = (1, 5, 10)  # at which it is told whether a retrieval was right


def ascending(values: Float[Array, " N"]) -> Float[Array, " N"]:
    """Sorted floats, NaN last.

    By their bits: XLA's CPU backend sorts integers ten times as fast as floats.
    """
    canonical = jnp.where(jnp.isnan(values), jnp.nan, values)
    integer = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(canonical, integer)
    # Negative floats have the larger bits the smaller they are.
    flipped = jnp.where(bits < 0, bits ^ jnp.iinfo(integer).max, bits)
    found = jax.lax.sort(flipped, is_stable=False)
    back = jnp.where(found < 0, found ^ jnp.iinfo(integer).max, found)
    return jax.lax.bitcast_convert_type(back, values.dtype)


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
        others = ascending(jnp.where(negative > 0, own, jnp.inf))
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
            found = ascending(jnp.where(counted, own, -jnp.inf))
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
    outputs: Float[Array, "N D"], y: Int[Array, " N"] | Sighting, mask: Float[Array, " N"]
) -> tuple[Array, Array, Array]:
    """Of each row as a query, by cosine: first right at each of `_RANKS`, precision, counted.

    It is looked for among all other rows; where cameras are known not among those of its identity
    and its own camera; where queries are told from the gallery in the gallery alone.
    """
    given = y if isinstance(y, Sighting) else Sighting(y)
    points = outputs.astype(jnp.float32)
    points = points / jnp.maximum(jnp.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    rows, known = jnp.arange(len(points)), (mask > 0) & (given.identity >= 0)
    gallery = known if given.query is None else known & (given.query == 0)
    asked = known if given.query is None else known & (given.query == 1)

    def query(row: Array) -> tuple[Array, Array, Array]:
        own = given.identity == given.identity[row]
        others = gallery & (rows != row)
        if given.camera is not None:
            others = others & ~(own & (given.camera == given.camera[row]))
        near, same = jnp.where(others, points @ points[row], -jnp.inf), others & own
        column = (a.astype(jnp.float32)[:, None] for a in (near, same, others))
        at_ranks, yes = precisions(*column)
        counted = (same.any() & asked[row]).astype(jnp.float32)
        # Of equally near rows the first in their order comes first.
        first = jnp.where(same, near, -jnp.inf).argmax()
        nearer = (near > near[first]) | ((near == near[first]) & (rows < first))
        found = (nearer & others).sum() < jnp.array(_RANKS)
        precision = at_ranks.sum() / jnp.maximum(yes.sum(), 1.0)
        return counted * found.astype(jnp.float32), counted * precision, counted

    return jax.lax.map(query, rows, batch_size=64)


def _rank(k: int) -> Metric:
    """The share of queries that are found among the ``k`` nearest: CMC at rank k."""
    place = _RANKS.index(k)
    among = "whose nearest other row" if k == 1 else f"of which one of the {k} nearest other rows"
    return Metric(
        _retrieved,
        lambda sums: ratio(np.asarray(sums[0])[..., place], sums[2]),
        of_all=True,
        of_sightings=True,
        about=f"The share of rows {among}, by cosine, has the same identity.",
    )


rank_1, rank_5, rank_10 = map(_rank, _RANKS)

retrieval_map = Metric(
    _retrieved,
    lambda sums: ratio(sums[1], sums[2]),
    of_all=True,
    of_sightings=True,
    about="The mean over rows of the average precision of those with the same identity.",
)
