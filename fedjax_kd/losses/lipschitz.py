"""FedAlign's term: the Lipschitz constants of a block at full and at reduced width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from fedjax_kd.losses.vectors import length, normalised
from fedjax_kd.options import checks_options


@checks_options
def lipschitz_alignment(
    narrow: tuple[Float[Array, "B H W c"], Float[Array, "B h w D"]],
    full: tuple[Float[Array, "B H W C"], Float[Array, "B h w D"]],
    steps: int = 10,
) -> Float[Array, " B"]:
    """The squared difference of a block's spectral norms, narrow and full.

    FedAlign adds ``mu`` times the batch mean of this to its loss, scaled by `as_large_as` to the
    cross-entropy. The full width is a constant; so must be the narrow block's input.

    Args:
      narrow: input and output of the block at reduced width.
      full: those at full width.
      steps: of the power iteration, >= 1.

    Raises:
      ValueError: if ``steps`` is less than 1.

    Example:
      >>> maps = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 3))
      >>> lipschitz_alignment(maps, maps)
      Array([0.], dtype=float32)

    Source: Mendieta, Yang, Wang, Lee, Ding, Chen, CVPR 2022, arXiv:2111.14213.
    """
    own = _lipschitz(*narrow, steps)
    given = jax.lax.stop_gradient(_lipschitz(*full, steps))
    return jnp.square(own - given.astype(own.dtype))


def transmitting_matrix(
    first: Float[Array, "B H W C"], second: Float[Array, "B h w D"]
) -> Float[Array, "B C D"]:
    """Inner products of two maps' channels, averaged over places.

    The first map is brought to the second's size by averaging: pixel i of h covers the rows from
    ``floor(i H / h)`` to ``ceil((i + 1) H / h)``.

    Example:
      >>> transmitting_matrix(jnp.full((1, 4, 4, 1), 3.0), jnp.full((1, 2, 2, 1), 2.0))
      Array([[[6.]]], dtype=float32)
    """
    return jnp.matmul(*_factors(first, second))


@checks_options
def spectral_norm(matrices: Float[Array, "B C D"], steps: int = 10) -> Float[Array, " B"]:
    """The largest singular value of each matrix, by power iteration from a vector of ones.

    Good for the matrices of non-negative features, as after a ReLU; never more than the true value.
    A matrix of zeros has 0, without a gradient.

    Args:
      matrices: one an example.
      steps: of the iteration, >= 1.

    Raises:
      ValueError: if ``steps`` is less than 1.

    Example:
      >>> spectral_norm(jnp.array([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
      Array([3., 0.], dtype=float32)
    """
    return _norm_of_product((matrices,), steps)


def as_large_as(term: Float[Array, ""], reference: Float[Array, ""]) -> Float[Array, ""]:
    """A loss term with the value of another one, and its own gradient scaled alike.

    Zero stays zero. The scale is a constant to gradients and grows without bound as the term
    vanishes, so FedAlign clips gradients (to norm 10).

    Example:
      >>> as_large_as(jnp.array(0.01), jnp.array(2.0))
      Array(2., dtype=float32)
    """
    scale = reference.astype(term.dtype) / jnp.maximum(jnp.abs(term), 1e-12)
    return jax.lax.stop_gradient(scale) * term


def _lipschitz(
    first: Float[Array, "B H W C"], second: Float[Array, "B h w D"], steps: int
) -> Float[Array, " B"]:
    """The norm of the transmitting matrix, which is not formed where its factors are smaller."""
    left, right = factors = _factors(first, second)
    smaller = left[0].size + right[0].size < left.shape[1] * right.shape[2]
    return _norm_of_product(factors if smaller else (left @ right,), steps)


def _factors(
    first: Float[Array, "B H W C"], second: Float[Array, "B h w D"]
) -> tuple[Float[Array, "B C P"], Float[Array, "B P D"]]:
    """Two matrices whose product is the transmitting one; P is h * w."""
    rows, columns = (
        jnp.asarray(_averaging(first.shape[axis], second.shape[axis]), first.dtype)
        for axis in (1, 2)
    )
    small = jnp.einsum("ih,jw,bhwc->bcij", rows, columns, first)
    flat = second.reshape(len(second), -1, second.shape[-1])
    places = jnp.asarray(flat.shape[1], first.dtype)
    return small.reshape(*small.shape[:2], -1) / places, flat


def _norm_of_product(factors: Sequence[Float[Array, "B _ _"]], steps: int) -> Float[Array, " B"]:
    # The norm is proportional to each factor: constant scales keep fourth powers from overflowing.
    largest = [jax.lax.stop_gradient(jnp.abs(factor).max((1, 2))) for factor in factors]
    scaled = [
        factor / jnp.where(most > 0, most, 1)[:, None, None]
        for factor, most in zip(factors, largest, strict=True)
    ]

    def times(vector: Float[Array, "B C"]) -> Float[Array, "B C"]:
        for factor in scaled:
            vector = jnp.einsum("bcd,bc->bd", factor, vector)
        for factor in reversed(scaled):
            vector = jnp.einsum("bcd,bd->bc", factor, vector)
        return vector

    start = normalised(jnp.ones(scaled[0].shape[:2], scaled[0].dtype))
    vector = jax.lax.fori_loop(0, steps - 1, lambda _, v: normalised(times(v)), start)
    square = length(times(vector))
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return math.prod(largest, start=root)


def _averaging(size: int, target: int) -> NDArray[np.float64]:
    """The matrix that averages ``size`` values to ``target`` values."""
    matrix = np.zeros((target, size))
    for i in range(target):
        start, stop = i * size // target, -(-(i + 1) * size // target)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
