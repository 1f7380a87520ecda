"""FSP matrices: the flow of the solution procedure, from one feature map to a later one."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError
from fedjax_kd.losses.distillation import check_pair


def fsp_matrix(
    first: Float[Array, "B H W C"], second: Float[Array, "B h w D"]
) -> Float[Array, "B C D"]:
    """Inner products of two maps' channels, averaged over places.

    The taller map is brought to the other's size by max-pooling over blocks that do not overlap;
    rows and columns that fill no block are left out.

    Raises:
      ValueError: if no such pooling makes the places equal.

    Example:
      >>> fsp_matrix(jnp.full((1, 4, 4, 2), 3.0), jnp.full((1, 2, 2, 1), 2.0))[0]
      Array([[6.],
             [6.]], dtype=float32)

    Source: Yim, Joo, Bae, Kim, CVPR 2017.
    """
    sizes = first.shape[1:3], second.shape[1:3]
    first, second = _pooled(first, min(sizes)), _pooled(second, min(sizes))
    if first.shape[:3] != second.shape[:3]:
        raise InputError(
            f"The maps are {sizes[0]} and {sizes[1]} pixels large, but one must be a multiple of "
            "the other, by the same factor in height and width: take maps of neighbouring stages."
        )
    places = first.shape[1] * first.shape[2]
    return jnp.einsum("bhwc,bhwd->bcd", first, second) / jnp.asarray(places, first.dtype)


def flow_matching(
    student: Sequence[Float[Array, "B H W C"]], teacher: Sequence[Float[Array, "B H W C"]]
) -> Float[Array, " B"]:
    """FSP's loss: the squared difference of the FSP matrices of consecutive maps.

        sum_i || G(student_i, student_{i+1}) - G(teacher_i, teacher_{i+1}) ||^2

    The teacher is a constant. KD-SVD's authors, whose code has this loss for comparison, halve it.

    Args:
      student: feature maps at the ends of stages, two or more.
      teacher: as many, with as many channels; their heights and widths may differ.

    Raises:
      ValueError: if there are fewer than two maps, or numbers of maps or channels differ.

    Example:
      >>> maps = [jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 1))]
      >>> flow_matching(maps, [2 * m for m in maps])
      Array([27.], dtype=float32)

    Source: Yim, Joo, Bae, Kim, CVPR 2017.
    """
    check_stages(student, teacher)
    total = jnp.zeros(len(student[0]), student[0].dtype)
    for i in range(len(student) - 1):
        own = fsp_matrix(student[i], student[i + 1])
        given = jax.lax.stop_gradient(fsp_matrix(teacher[i], teacher[i + 1])).astype(own.dtype)
        check_pair(own, given)
        total = total + jnp.square(own - given).sum((1, 2)).astype(total.dtype)
    return total


def check_stages(student: Sequence[Array], teacher: Sequence[Array]) -> None:
    """Raises ValueError unless both models give the same number of maps, two or more."""
    if len(student) != len(teacher) or len(student) < 2:
        raise InputError(
            f"The student gives {len(student)} feature maps and the teacher {len(teacher)}, but "
            "both must give the same number, at least 2: take the ends of the same stages."
        )


def _pooled(x: Float[Array, "B H W C"], size: tuple[int, ...]) -> Float[Array, "B h w C"]:
    """The largest value of each block, by the factor that leads to the height ``size[0]``."""
    factor = max(x.shape[1] // size[0], 1)
    height, width = (side // factor for side in x.shape[1:3])
    whole = x[:, : height * factor, : width * factor]
    return whole.reshape(len(x), height, factor, width, factor, x.shape[3]).max((2, 4))
