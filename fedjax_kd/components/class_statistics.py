"""Moments of features, class by class: counts, means and scatter.

Sums of squares are taken around the mean of what they are taken of, and brought together by the
differences of the means (Chan, Golub, LeVeque, 1983): nothing large is subtracted from another, so
that float32 will do, and a covariance has no negative direction but by rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fedjax_kd import losses
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Batch, Data, Variables
from fedjax_kd.nn.decompositions import eigh
from fedjax_kd.task import Task

AT_ONCE = 64  # rows of a client


class Moments(NamedTuple):
    """Counts, means and scatter of each class's features; zeros for a class without any.

    The scatter is ``sum_i (z_i - mean)(z_i - mean)^T``, the covariance times ``count - 1``.
    """

    counts: Float[Array, " L"]
    means: Float[Array, "L D"]
    scatter: Float[Array, "L D D"]


def nothing(classes: int, width: int, dtype: DTypeLike = jnp.float32) -> Moments:
    """The moments of no features at all."""
    shapes = (classes,), (classes, width), (classes, width, width)
    return Moments(*(jnp.zeros(shape, dtype) for shape in shapes))


def moments(
    features: Float[Array, "B D"],
    labels: Int[Array, " B"],
    weights: Float[Array, " B"],
    classes: int,
) -> Moments:
    """The moments of labelled features.

    Args:
      features: ``[B, D]``.
      labels: classes in ``0 .. L - 1``; others count nothing.
      weights: 1 for a feature that counts, 0 for filling.
      classes: L.

    Example:
      >>> z = jnp.array([[1.0], [3.0], [7.0]])
      >>> moments(z, jnp.array([0, 0, 1]), jnp.ones(3), 2).scatter.ravel()
      Array([2., 0.], dtype=float32)
    """
    members = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    members = members * weights.astype(features.dtype)[:, None]
    counts = members.sum(0)
    exact = jax.lax.Precision.HIGHEST
    means = jnp.einsum("bl,bd->ld", members, features, precision=exact) / _at_least_one(counts)
    centred = (features[None] - means[:, None]) * members.T[..., None]
    return Moments(counts, means, jnp.einsum("lbd,lbe->lde", centred, centred, precision=exact))


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of features together."""
    counts, means = jnp.stack([a.counts, b.counts]), jnp.stack([a.means, b.means])
    return pooled(counts, means, a.scatter + b.scatter)


def pooled(
    counts: Float[Array, "K L"], means: Float[Array, "K L D"], scatter: Float[Array, "L D D"]
) -> Moments:
    """The moments of many clients' features together, exact whatever the clients hold.

    Args:
      counts: of each client; 0 and 1 are counts like others.
      means: of each client.
      scatter: the sum of the clients' own.

    Example:
      >>> counts, means = jnp.array([[1.0], [1.0], [0.0]]), jnp.array([[[0.0]], [[2.0]], [[0.0]]])
      >>> pooled(counts, means, jnp.zeros((1, 1, 1))).scatter.ravel()
      Array([2.], dtype=float32)
    """
    exact, together = jax.lax.Precision.HIGHEST, counts.sum(0)
    mean = jnp.einsum("kl,kld->ld", counts, means, precision=exact) / _at_least_one(together)
    apart = means - mean[None]
    between = jnp.einsum("kl,kld,kle->lde", counts, apart, apart, precision=exact)
    return Moments(together, mean, scatter + between)


def covariances(of: Moments) -> Float[Array, "L D D"]:
    """The unbiased covariance of each class; 0 where there are fewer than two features."""
    return of.scatter / jnp.maximum(of.counts - 1, 1)[:, None, None]


def square_roots(covariance: Float[Array, "L D D"]) -> Float[Array, "L D D"]:
    """Symmetric square roots, also of matrices without full rank.

    Directions in which a matrix has nothing but rounding get exactly 0. Unlike a Cholesky factor
    the root exists then, and moves little with the matrix.

    Example:
      >>> square_roots(jnp.array([[[4.0, 0.0], [0.0, 0.0]]]))
      Array([[[2., 0.],
              [0., 0.]]], dtype=float32)
    """
    values, vectors = eigh(covariance)
    rounding = 10 * covariance.shape[-1] * float(jnp.finfo(covariance.dtype).eps)
    lengths = jnp.sqrt(jnp.where(values > rounding * values[:, -1:], values, 0))
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("lde,le,lfe->ldf", vectors, lengths, vectors, precision=exact)


def memberships(
    y: Int[Array, "B ..."], mask: Float[Array, " B"], classes: int, dtype: DTypeLike
) -> Float[Array, "N L"]:
    """What each label counts in each class: 1 in its own, and 0 if it is -1 or of filling."""
    weights = losses.label_weights(y, mask).astype(dtype)
    return (jax.nn.one_hot(y, classes, dtype=dtype) * weights[..., None]).reshape(-1, classes)


def label_counts(data: Data, classes: int) -> Float[Array, " L"]:
    """How many labels of each class a client holds."""

    def add(counts: Array, batch: Batch, _: Array) -> Array:
        return counts + memberships(batch.y, batch.mask, classes, batch.mask.dtype).sum(0)

    return over_rows(data, AT_ONCE, add, jnp.zeros(classes, jnp.float32))


def own_counts(task: Task, model: Variables, data: Data) -> Float[Array, " L"]:
    """`label_counts` of a client, for as many classes as the model has outputs."""

    def logits() -> Array:
        return task.apply(model, data.take(jnp.zeros(1, jnp.int32), jnp.ones(1)).x)[0]

    return label_counts(data, jax.eval_shape(logits).shape[-1])


def _at_least_one(counts: Float[Array, " L"]) -> Float[Array, "L 1"]:
    return jnp.maximum(counts, 1)[:, None]
