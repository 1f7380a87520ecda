"""KD-SVD and KD-EID: the singular vectors of feature maps, and how they change between stages.

The teacher is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError
from fedjax_kd.losses.flow import check_stages
from fedjax_kd.losses.vectors import normalised
from fedjax_kd.nn.decompositions import eigh, svd
from fedjax_kd.options import check_choice, checks_options

Decomposition = Literal["svd", "eid"]

_SPARE = 3  # vectors of the student, beyond the teacher's number, from which the alignment chooses
_WIDTH = 8.0  # of the radial basis functions


@checks_options
def singular_distillation(
    student: Sequence[Float[Array, "B *S D"]],
    teacher: Sequence[Float[Array, "B *S D"]],
    *,
    count: int = 1,
    decomposition: Decomposition = "svd",
) -> Float[Array, " B"]:
    """KD-SVD's loss, or KD-EID's: `singular_correlation` of the maps' main singular vectors.

    The teacher keeps ``count`` right singular vectors a map, weighed by their singular values; of
    the student's first ``count + 3`` those are taken that lie nearest, see `aligned`. A vector's
    sign is the one that makes its largest entry positive, so that values do not depend on the
    linear algebra library. The authors' code adds up over the batch, which makes its loss grow with
    it, and the gradients of its own decompositions are twice the true ones; it relies on clipping.

    Args:
      student: feature maps at the ends of stages, two or more.
      teacher: as many, of the same channels; their places may differ.
      count: vectors kept a map, >= 1.
      decomposition: see `right_singular_vectors`.

    Raises:
      ValueError: if numbers of maps or channels differ, or an option is out of range.

    Example:
      >>> maps = [jax.random.normal(jax.random.key(i), (2, 4, 4, 3)) for i in range(2)]
      >>> singular_distillation(maps, maps)
      Array([0., 0.], dtype=float32)

    Source: Lee, Kim, Song, ECCV 2018, arXiv:1807.06819; Lee, Song, IEEE TNNLS (KD-EID).
    """
    check_stages(student, teacher)
    own, given = [], []
    for student_map, teacher_map in zip(student, teacher, strict=True):
        if student_map.shape[-1] != teacher_map.shape[-1]:
            raise InputError(
                f"A student's map has {student_map.shape[-1]} channels and the teacher's "
                f"{teacher_map.shape[-1]}, but their vectors can only be compared if they are as "
                "long: take stages of the same width, or project one side."
            )
        values, vectors = jax.lax.stop_gradient(
            right_singular_vectors(teacher_map, count, decomposition)
        )
        _, candidates = right_singular_vectors(student_map, count + _SPARE, decomposition)
        weights = normalised(values)[:, None].astype(candidates.dtype)
        vectors = vectors.astype(candidates.dtype)
        own.append(aligned(candidates, vectors) * weights)
        given.append(vectors * weights)
    return singular_correlation(own, given)


def singular_correlation(
    student: Sequence[Float[Array, "B D K"]], teacher: Sequence[Float[Array, "B D K"]]
) -> Float[Array, " B"]:
    """The correlation of one map's vectors with the next map's, compared between two models.

        R_i[d, e, k] = exp(-(v_i[d, k] - v_{i-1}[e, k])^2 / 8)
        sum_{i, d, e, k} (R_i of the student - R_i of the teacher)^2

    Example:
      >>> vectors = [jnp.ones((1, 2, 1)), jnp.zeros((1, 3, 1))]
      >>> singular_correlation(vectors, vectors)
      Array([0.], dtype=float32)
    """

    def related(vectors: Sequence[Array], i: int) -> Array:
        apart = vectors[i][:, :, None] - vectors[i - 1][:, None]
        return jnp.exp(-jnp.square(apart) / _WIDTH)

    total = jnp.zeros(len(student[0]), student[0].dtype)
    for i in range(1, len(student)):
        own, given = related(student, i), jax.lax.stop_gradient(related(teacher, i))
        total = total + jnp.square(own - given).sum((1, 2, 3))
    return total


def aligned(
    candidates: Float[Array, "B D J"], vectors: Float[Array, "B D K"]
) -> Float[Array, "B D K"]:
    """For each vector the candidate of the largest absolute cosine, turned so that it is > 0.

    Example:
      >>> aligned(jnp.array([[[0.6, -0.8], [0.8, 0.6]]]), jnp.array([[[0.9], [-0.1]]]))[0, :, 0]
      Array([ 0.8, -0.6], dtype=float32)
    """
    cosines = jnp.einsum("bdj,bdk->bjk", candidates, vectors)
    nearest = jnp.argmax(jnp.abs(cosines), axis=1, keepdims=True)
    signs = jnp.where(jnp.take_along_axis(cosines, nearest, axis=1) < 0, -1, 1)
    return jnp.take_along_axis(candidates, nearest, axis=2) * signs.astype(candidates.dtype)


@checks_options
def right_singular_vectors(
    features: Float[Array, "B *S D"], count: int, decomposition: Decomposition = "svd"
) -> tuple[Float[Array, "B K"], Float[Array, "B D K"]]:
    """The largest singular values of each map ``[S, D]``, and the directions of channels.

    Gradients are exact where singular values are apart and finite everywhere: two equal ones, whose
    vectors are not determined, do not turn into each other, and a map of zeros has none.

    Args:
      features: a map of each example; nothing is subtracted from it.
      count: how many, >= 1; fewer come back if the map has fewer places or channels.
      decomposition: "svd", or "eid" (KD-EID): the eigenvectors of the smaller Gram matrix, which is
        faster where the map is far from square, and in float32 blurs singular values below a
        thousandth of the largest.

    Raises:
      ValueError: if ``count`` is less than 1, or the decomposition unknown.

    Example:
      >>> values, vectors = right_singular_vectors(jnp.array([[[3.0, 0.0], [0.0, 2.0]]]), 1)
      >>> values, vectors[0, :, 0]
      (Array([[3.]], dtype=float32), Array([1., 0.], dtype=float32))
    """
    check_choice("decomposition", decomposition, Decomposition)
    x = features.reshape(len(features), -1, features.shape[-1])
    # Vectors do not depend on the scale, and without it the Gram matrix of 1e20 would overflow.
    largest = jax.lax.stop_gradient(jnp.abs(x).max((1, 2), keepdims=True))
    largest = jnp.where(largest > 0, largest, 1)
    squares, vectors = _decomposed(decomposition, x / largest)
    squares, vectors = squares[:, :count], vectors[:, :, :count]
    values = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    peaks = jnp.argmax(jnp.abs(vectors), axis=1, keepdims=True)
    signs = jnp.where(jnp.take_along_axis(vectors, peaks, axis=1) < 0, -1, 1)
    return values * largest[:, 0], vectors * signs.astype(vectors.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _decomposed(
    decomposition: Decomposition, x: Float[Array, "B N D"]
) -> tuple[Float[Array, "B R"], Float[Array, "B D R"]]:
    """All squared singular values, the largest first, and their right vectors."""
    places, channels = x.shape[1:]
    gram = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    if decomposition == "svd" or 2 / 3 < places / channels < 3 / 2:
        _, values, rows = svd(x)
        return jnp.square(values), rows.mT
    if places >= channels:
        squares, vectors = eigh(gram(x.mT, x))
        return jnp.maximum(squares[:, ::-1], 0), vectors[:, :, ::-1]
    squares, vectors = eigh(gram(x, x.mT))
    vectors = normalised((x.mT @ vectors[:, :, ::-1]).mT).mT
    return jnp.maximum(squares[:, ::-1], 0), vectors


@_decomposed.defjvp
def _decomposed_jvp(
    decomposition: Decomposition, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """First-order perturbation of the eigenvectors of ``x^T x``."""
    (x,), (dx,) = primals, tangents
    squares, vectors = _decomposed(decomposition, x)
    change = dx.mT @ (x @ vectors) + x.mT @ (dx @ vectors)
    within = vectors.mT @ change
    turned = vectors @ (within * _inverse(squares[:, None] - squares[:, :, None], squares))
    if x.shape[1] < x.shape[2]:  # then there are directions that no vector has
        outside = change - vectors @ within
        turned = turned + outside * _inverse(squares, squares)[:, None]
    grown = jnp.diagonal(within, axis1=1, axis2=2)
    return (squares, vectors), (grown, turned)


def _inverse(gaps: Float[Array, "B ..."], squares: Float[Array, "B R"]) -> Float[Array, "B ..."]:
    """One over each gap, and 0 where it is nothing beside the largest square."""
    least = squares.max(1) * jnp.sqrt(jnp.finfo(squares.dtype).eps)
    wide = jnp.abs(gaps) > jnp.expand_dims(least, tuple(range(1, gaps.ndim)))
    return jnp.where(wide, 1 / jnp.where(wide, gaps, 1), 0)
