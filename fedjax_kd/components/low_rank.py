"""Messages of low rank: changes whose matrices are cut to most of their energy.

Shapes are static, so nothing here gets smaller: a cut matrix comes as the receiver would put it
together again from its factors, and how many numbers those have is counted beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.core import PyTree, Scalar
from fedjax_kd.nn.decompositions import eigh
from fedjax_kd.options import checks_options


class LowRank(NamedTuple):
    """A change as its receiver has it, and the bytes of its factors."""

    base: Any
    size: Int[Array, ""]  # bytes of the factors


@checks_options
def rising(start: Scalar, end: Scalar, rounds: Scalar) -> Callable[[Array], Array]:
    """FedKD's energy by round, counted from 0: it grows linearly and reaches ``end`` in the last.

        T = start + (end - start) * min(1, (round + 1) / rounds)

    Args:
      start: share of a matrix's energy that travels at first, in [0, 1].
      end: that share at last, in [0, 1].
      rounds: over which it grows, >= 1.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> rising(0.5, 0.9, 4)(jnp.int32(1))
      Array(0.7, dtype=float32)
    """

    def energy(round: Array) -> Array:
        return start + (end - start) * jnp.minimum((round + 1).astype(jnp.float32) / rounds, 1)

    return energy


def whole(base: Any, message: PyTree) -> LowRank:
    """A message that is sent as it is, with all of its bytes."""
    return LowRank(base, jnp.int32(tree.num_bytes(message)))


@checks_options
def cut(change: PyTree, energy: Scalar) -> LowRank:
    """Every matrix of a change by its fewest singular vectors that hold a share of its energy.

    A kernel of more axes is a matrix whose columns are its last axis: that of a convolution
    ``[height, width, in, out]`` has a column for each output. Vectors, scalars and whole numbers
    travel as they are.

    Args:
      change: a tree of arrays.
      energy: least share of a matrix's squared entries that is left, in [0, 1]. At 1 everything
        travels as it is; at 0 still one singular vector a matrix does.

    Example:
      >>> flat = jnp.outer(jnp.ones(20), jnp.ones(9))
      >>> cut({"w": flat, "b": jnp.ones(10)}, 0.95).size  # of (20 + 9 + 1) + 10 numbers
      Array(160, dtype=int32)
    """
    leaves, structure = jax.tree.flatten(change)
    cuts = [_leaf(leaf, energy) for leaf in leaves]
    size = sum((count * kept.dtype.itemsize for kept, count in cuts), jnp.int32(0))
    return LowRank(jax.tree.unflatten(structure, [kept for kept, _ in cuts]), size)


def _leaf(leaf: Array, energy: Scalar) -> tuple[Array, Int[Array, ""]]:
    """One array as its receiver has it, and how many numbers travelled for it."""
    if leaf.ndim < 2 or not leaf.size or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf, jnp.int32(leaf.size)
    matrix = leaf.reshape(-1, leaf.shape[-1])
    kept, rank = truncated(matrix, energy)
    return kept.reshape(leaf.shape).astype(leaf.dtype), factor_numbers(matrix.shape, rank)


@checks_options
def truncated(
    matrix: Float[Array, "M N"], energy: Scalar
) -> tuple[Float[Array, "M N"], Int[Array, ""]]:
    """The best approximation of the least rank that holds a share of the energy, and that rank.

        rank = min {r : sum_{j <= r} sigma_j^2 >= energy * sum_j sigma_j^2}

    The rank is at least 1, but that of zeros is 0. The singular values come from the smaller Gram
    matrix, which is 10 times faster than an SVD where one side is much longer; in float32 that
    blurs the energy by about a millionth.

    Args:
      matrix: any.
      energy: share of the squared entries, in [0, 1]; at 1 the matrix comes back as it is.

    Example:
      >>> matrix = jnp.diag(jnp.array([3.0, 1.0, 0.5]))
      >>> truncated(matrix, 0.95)[1], truncated(matrix, 0.99)[1]
      (Array(2, dtype=int32), Array(3, dtype=int32))
    """
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    wide = matrix.shape[0] < matrix.shape[1]
    dtype = matrix.dtype if jnp.finfo(matrix.dtype).bits >= 32 else jnp.float32
    tall = (matrix.mT if wide else matrix).astype(dtype)
    # Without a common scale the squares of tiny changes would vanish.
    largest = jnp.abs(tall).max()
    scaled = tall / jnp.where(largest > 0, largest, 1)
    squares, vectors = eigh(product(scaled.mT, scaled))  # the smallest first
    upto = jnp.cumsum(jnp.maximum(squares, 0))
    spare = (1 - jnp.asarray(energy, upto.dtype)) * upto[-1]
    kept = ((upto > spare).at[-1].set(True) | (spare <= 0)) & (largest > 0)
    columns = vectors * kept[None].astype(vectors.dtype)
    approximation = product(product(tall, columns), columns.mT)
    approximation = approximation.mT if wide else approximation
    rank = kept.sum(dtype=jnp.int32)
    whole = kept.all() | (largest == 0)
    return jnp.where(whole, matrix, approximation.astype(matrix.dtype)), rank


def factor_numbers(shape: tuple[int, ...], rank: Int[Array, ""]) -> Int[Array, ""]:
    """How many numbers travel for a matrix: those of its factors, or of itself if that is less.

    Example:
      >>> factor_numbers((20, 9), jnp.int32(1)), factor_numbers((2, 3), jnp.int32(2))
      (Array(30, dtype=int32), Array(6, dtype=int32))
    """
    rows, columns = shape
    factors = rank * (rows + columns + 1)
    return jnp.minimum(factors, rows * columns)


def power_step(
    matrix: Float[Array, "*K M N"],
    start: Float[Array, "N r"],
    mean: Callable[[Array], Array] = lambda products: products,
) -> tuple[Float[Array, "M r"], Float[Array, "N r"]]:
    """One power iteration of PowerSGD: factors P and Q, whose product P Q^T is near the matrix.

        P = orthonormalised(mean(A Q0));  Q = mean(A^T P)

    Args:
      matrix: A, or those of several clients.
      start: Q0.
      mean: of several clients' products, on the way; for one, nothing.

    Example:
      >>> left, right = power_step(jnp.outer(jnp.arange(3.0), jnp.ones(2)), jnp.ones((2, 1)))
      >>> left @ right.T
      Array([[0., 0.], [1., 1.], [2., 2.]], dtype=float32)
    """
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    left = orthonormalised(mean(product(matrix, start)))
    return left, mean(product(matrix.mT, left))


def orthonormalised(columns: Float[Array, "M r"]) -> Float[Array, "M r"]:
    """Columns made orthonormal one after the other; what is left of dependent ones is zero.

    Example:
      >>> orthonormalised(jnp.array([[3.0, 3.0], [0.0, 2.0]]))
      Array([[1., 0.], [0., 1.]], dtype=float32)
    """
    found: list[Array] = []
    for column in columns.T:
        rest = column
        for other in (*found, *found):  # once more, for what rounding left
            rest = rest - jnp.vdot(other, rest) * other
        length = jnp.linalg.norm(rest)
        kept = length > 10 * jnp.finfo(columns.dtype).eps * jnp.linalg.norm(column)
        found.append(jnp.where(kept, rest / jnp.where(kept, length, 1), 0))
    return jnp.stack(found, axis=1)


def powered(leaf: Array, key: jax.Array, rank: int) -> Array:
    """An array as `power_step` leaves it, or as it is where its factors are not smaller."""
    if factor_bytes(leaf, rank) == leaf.nbytes:
        return leaf
    matrix = leaf.reshape(-1, leaf.shape[-1])
    start = jax.random.normal(key, (matrix.shape[1], rank), matrix.dtype)
    left, right = power_step(matrix, start)
    return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST).reshape(leaf.shape)


def factor_bytes(leaf: Array, rank: int) -> int:
    """Bytes of an array's two factors, or of itself if that is less.

    Example:
      >>> factor_bytes(jnp.ones((20, 9)), 2), factor_bytes(jnp.ones((2, 3)), 2)
      (232, 24)
    """
    if leaf.ndim < 2 or not leaf.size:
        return leaf.nbytes
    columns = leaf.shape[-1]
    return leaf.dtype.itemsize * min(rank * (leaf.size // columns + columns), leaf.size)
