"""What robust rules make of the arrays ``[K, ...]`` of a cohort's uploads."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedjax_kd import tree
from fedjax_kd.core import Scalar


def medians(values: Float[Array, "K ..."], present: Array) -> Float[Array, ...]:
    """The median of each coordinate over the clients that are present.

    Example:
      >>> medians(jnp.array([[1.0], [2.0], [9.0], [0.0]]), jnp.array([1, 1, 1, 0]))
      Array([2.], dtype=float32)
    """
    there: Bool[Array, " K"] = present > 0
    shown = jnp.where(there.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.inf)
    ordered, count = jnp.sort(shown, axis=0), there.sum()
    middle = [
        ordered.at[jnp.maximum(n, 0)].get(mode="clip") for n in ((count - 1) // 2, count // 2)
    ]
    return jnp.where(count > 0, (middle[0] + middle[1]) / 2, 0)


def squared_distances(uploads: Sequence[Array]) -> Float[Array, "K K"]:
    """``||u_i - u_j||^2`` over all arrays ``[K, ...]`` together.

    The mean is taken off first: what is left of two large products would be rounding.

    Example:
      >>> squared_distances([jnp.array([[0.0, 0.0], [3.0, 4.0]])]).tolist()
      [[0.0, 25.0], [25.0, 0.0]]
    """
    products = []
    for array in uploads:
        flat = _wide(array).reshape(len(array), -1)
        flat = flat - flat.mean(0, keepdims=True)
        products.append(jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST))
    gram = sum(products[1:], products[0])
    squares = jnp.diagonal(gram)
    return jnp.maximum(squares[:, None] + squares[None] - 2 * gram, 0)


def krum_scores(
    distances: Float[Array, "K K"], present: Array, malicious: int
) -> Float[Array, " K"]:
    """The sum of each client's smallest distances; infinite for whoever is not there."""
    there = present > 0
    others = there[:, None] & there[None] & ~jnp.eye(len(there), dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    neighbours = jnp.maximum(there.sum() - malicious - 2, 1)
    counted = jnp.arange(len(there))[None] < neighbours
    sums = jnp.where(counted & jnp.isfinite(nearest), nearest, 0).sum(1)
    return jnp.where(there, sums, jnp.inf)


def trimmed_means(
    values: Float[Array, "K ..."], present: Array, share: Scalar
) -> Float[Array, ...]:
    """The mean of each coordinate without its largest and smallest values.

        the mean of those that are left when floor(share * n) are cut on each side, n present

    Example:
      >>> trimmed_means(jnp.array([[1.0], [2.0], [6.0], [90.0]]), jnp.ones(4), 0.25)
      Array([4.], dtype=float32)
    """
    there: Bool[Array, " K"] = present > 0
    count = there.sum()
    cut = jnp.floor(share * count.astype(jnp.float32) * (1 + 2e-7)).astype(count.dtype)
    ranks = _ranks(jnp.where(_along(there, values), values, jnp.inf))
    kept = (ranks >= cut) & (ranks < count - cut)
    return _mean_of(values, kept)


def bulyan(
    arrays: Sequence[Float[Array, "K ..."]], present: Array, malicious: int
) -> tuple[list[Array], Float[Array, " K"]]:
    """Krum, again and again, then the values of each coordinate that lie near the median.

        theta = n - 2 f times: the upload of least score of those that are left
        the mean of the theta - 2 f values nearest to the median of the theta chosen

    Args:
      arrays: of all uploads.
      present: 1 for those that are there.
      malicious: f.

    Returns:
      The mean of each array, and 1 for the uploads that were chosen.
    """
    distances, there = squared_distances(arrays), (present > 0).astype(jnp.float32)
    wanted = jnp.maximum(there.sum() - 2 * malicious, 1)

    def pick(number: Array, left: Array) -> Array:
        best = krum_scores(distances, left, malicious).argmin()
        return jnp.where(number < wanted, left.at[best].set(0), left)

    chosen = there - jax.lax.fori_loop(0, len(there), pick, there)
    near = jnp.maximum(wanted - 2 * malicious, 1)
    return [_nearest_to_median(a, chosen, near) for a in arrays], chosen


def geometric_weights(
    arrays: Sequence[Float[Array, "K ..."]],
    weights: Float[Array, " K"],
    steps: int,
    smoothing: Scalar,
) -> Float[Array, " K"]:
    """Weights of uploads whose mean is near their geometric median (Weiszfeld's steps).

        z = sum_k p_k u_k
        repeat: b_k = p_k / max(smoothing, ||u_k - z||), z = sum b_k u_k / sum b_k

    Args:
      arrays: of all uploads.
      weights: p, 0 for those that are not there.
      steps: of the iteration.
      smoothing: least distance that counts.

    Example:
      >>> geometric_weights([jnp.array([[0.0], [0.0], [9.0]])], jnp.ones(3), 8, 1e-6).round(2)
      Array([0.5, 0.5, 0. ], dtype=float32)
    """

    def step(_: Array, own: Array) -> Array:
        centre = tree.weighted_mean(arrays, own)
        away = [a - c[None] for a, c in zip(arrays, centre, strict=True)]
        return weights / jnp.maximum(_lengths(away), smoothing).astype(weights.dtype)

    found = jax.lax.fori_loop(0, steps, step, weights)
    total = found.sum()
    return found / jnp.where(total > 0, total, 1)


def centred(
    arrays: Sequence[Float[Array, "K ..."]],
    present: Array,
    centre: Sequence[Array],
    bound: Scalar,
    steps: int,
) -> list[Array]:
    """A centre that moves towards uploads, by a bounded distance for each.

        repeat: v = v + mean_k (u_k - v) min(1, bound / ||u_k - v||)

    Args:
      arrays: of all uploads.
      present: 1 for those that are there.
      centre: v at first.
      bound: of a distance.
      steps: of the iteration.
    """

    def step(_: Array, at: list[Array]) -> list[Array]:
        away = [a - c[None] for a, c in zip(arrays, at, strict=True)]
        lengths = _lengths(away)
        factor = jnp.minimum(1, bound / jnp.where(lengths > 0, lengths, 1))
        moved = tree.weighted_mean(
            [_along(factor, a).astype(a.dtype) * a for a in away], present.astype(factor.dtype)
        )
        return [c + m for c, m in zip(at, moved, strict=True)]

    return jax.lax.fori_loop(0, steps, step, list(centre))


def _nearest_to_median(values: Array, chosen: Array, count: Array) -> Array:
    away = jnp.abs(values - medians(values, chosen)[None])
    ranks = _ranks(jnp.where(_along(chosen > 0, values), away, jnp.inf))
    return _mean_of(values, ranks < count.astype(ranks.dtype))


def _lengths(arrays: Sequence[Array]) -> Array:
    """The norm of each client's arrays together ``[K]``."""
    squares = [jnp.square(_wide(a)).reshape(len(a), -1).sum(1) for a in arrays]
    return jnp.sqrt(sum(squares[1:], squares[0]))


def _wide(array: Array) -> Array:
    """Of at least 32 bits."""
    return array if jnp.finfo(array.dtype).bits >= 32 else array.astype(jnp.float32)


def _along(mask: Array, values: Array) -> Array:
    return mask.reshape(-1, *[1] * (values.ndim - 1))


def _ranks(values: Array) -> Array:
    return jnp.argsort(jnp.argsort(values, axis=0, stable=True), axis=0, stable=True)


def _mean_of(values: Array, kept: Array) -> Array:
    count = jnp.maximum(kept.sum(0), 1).astype(values.dtype)
    return jnp.where(kept, values, 0).sum(0) / count
