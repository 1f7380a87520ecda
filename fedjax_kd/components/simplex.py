"""Fixed classifiers: weights of classes that are as far from each other as they can be.

A simplex equiangular tight frame has columns of length 1, one a class, whose cosines are all
``-1 / (L - 1)``: no L vectors are further apart. A sparse one has most of its entries at zero and
comes as near to that as the others allow (FedLoGe's SSE-C).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from fedjax_kd import losses
from fedjax_kd.core import Key, Scalar
from fedjax_kd.local import stepped
from fedjax_kd.nn.decompositions import one_by_one

_RATE = 1e-4  # of Adam, as in FedLoGe's code
_LARGEST = 0.99999  # cosine whose angle has a gradient

_orthonormal = one_by_one(lambda columns: jnp.linalg.qr(columns)[0])


def simplex_frame(directions: Float[Array, "D L"]) -> Float[Array, "D L"]:
    """The simplex frame in the space of some independent directions, D >= L >= 2.

    Example:
      >>> frame = simplex_frame(jnp.eye(3)[:, :2])
      >>> (frame.T @ frame).round(3).tolist()
      [[1.0, -1.0], [-1.0, 1.0]]
    """
    classes = directions.shape[1]
    centred = jnp.eye(classes, dtype=directions.dtype) - 1 / classes
    exact = jax.lax.Precision.HIGHEST
    frame = jnp.matmul(_orthonormal(directions), centred, precision=exact)
    return frame * (classes / (classes - 1)) ** 0.5


def sparse_mask(key: Key, shape: tuple[int, int], beta: Scalar) -> Bool[Array, "D L"]:
    """Which entries stay: all but a random share ``beta``, and at least one of each class.

    Example:
      >>> sparse_mask(jax.random.key(0), (10, 4), 0.6).sum().item()
      16
    """
    count = shape[0] * shape[1]
    places = jax.random.permutation(key, count).reshape(shape)
    zeros = jnp.floor(jnp.asarray(beta) * count).astype(places.dtype)
    return (places >= zeros) | (places == places.max(0, keepdims=True))


def spread_out(
    frame: Float[Array, "D L"], mask: Float[Array, "D L"], length: Scalar, steps: int
) -> Float[Array, "D L"]:
    """What is left of a frame under a mask, moved so that its columns are far apart again.

        min  sum_c (|m_c| - length)^2 - mean_c angle of m_c to its nearest other column

    by Adam. Columns come near that length, and need not have it.

    Args:
      frame: from `simplex_frame`.
      mask: 1 for entries that may move, 0 for those that are zero.
      length: of the columns.
      steps: of Adam.
    """
    opt, length = optax.adam(_RATE), jnp.asarray(length, frame.dtype)
    same = jnp.eye(frame.shape[1], dtype=bool)

    def loss(columns: Array) -> Array:
        unit = losses.normalised(columns.T)
        cosines = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
        nearest = jnp.where(same, -1, cosines).max(1).clip(-_LARGEST, _LARGEST)
        lengths = losses.length(columns.T)
        return jnp.square(lengths - length).sum() - jnp.arccos(nearest).mean()

    def step(_: Array, carry: tuple) -> tuple:
        columns, state = carry
        return stepped(opt, columns, jax.grad(loss)(columns) * mask, state)

    start = frame * mask
    return jax.lax.fori_loop(0, steps, step, (start, opt.init(start)))[0]


def sparse_frame(
    key: Key, shape: tuple[int, int], beta: Scalar, length: Scalar, steps: int
) -> Float[Array, "D L"]:
    """A random sparse frame.

    Args:
      key: consumed.
      shape: features and classes, D >= L >= 2.
      beta: share of entries that are zero.
      length: of the columns, about.
      steps: of the optimisation that spreads what is left.
    """
    frame = simplex_frame(jax.random.normal(jax.random.fold_in(key, 0), shape))
    mask = sparse_mask(jax.random.fold_in(key, 1), shape, beta)
    return spread_out(frame, mask.astype(frame.dtype), length, steps)
