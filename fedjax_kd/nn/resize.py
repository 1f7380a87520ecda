"""Images of other sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num
from numpy.typing import NDArray

from fedjax_kd.core import Key, PyTree
from fedjax_kd.errors import InputError


def dealt(key: Key, rows: int, parts: int) -> list[Int[Array, " b"]]:
    """The numbers of a batch's rows in ``parts`` hands that differ by one row at most.

    Raises:
      ValueError: if there are fewer rows than parts.

    Example:
      >>> [len(hand) for hand in dealt(jax.random.key(0), 10, 4)]
      [3, 3, 2, 2]
    """
    if rows < parts:
        raise InputError(
            f"A batch has {rows} rows, but there are {parts} resolutions: take a batch_size of at "
            f"least {parts}, or fewer resolutions."
        )
    first = jax.random.randint(key, (), 0, rows, jnp.int32)
    order = (jnp.arange(rows, dtype=jnp.int32) + first) % rows
    return [order[part::parts] for part in range(parts)]


def resized(x: PyTree, rows: Int[Array, " b"], side: int) -> PyTree:
    """Rows of a batch of images, brought to ``side`` x ``side`` pixels; with 0 as they are."""
    taken = jax.tree.map(lambda a: a[rows], x)
    return bilinear(taken, side) if side else taken


def bilinear(x: Num[Array, "B H W *C"], side: int) -> Num[Array, "B h h *C"]:
    """Images brought to ``side`` x ``side`` pixels; corners stay corners, bytes stay bytes.

    Values are interpolated between the nearest pixels and not averaged, as by PyTorch's
    ``interpolate(mode="bilinear", align_corners=True)``.

    Raises:
      ValueError: if these are no images.

    Example:
      >>> bilinear(jnp.array([[[0.0, 1.0], [2.0, 3.0]]]), 3)[0]
      Array([[0. , 0.5, 1. ],
             [1. , 1.5, 2. ],
             [2. , 2.5, 3. ]], dtype=float32)
    """
    if x.ndim not in (3, 4):
        raise InputError(
            f"A batch has shape {x.shape}, but only images [B, H, W] or [B, H, W, C] have another "
            "resolution: leave the resolutions out."
        )
    wide = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    rows, columns = (jnp.asarray(_between(x.shape[axis], side), wide.dtype) for axis in (1, 2))
    small = jnp.einsum("ih,jw,bhw...->bij...", rows, columns, wide)
    return small if wide is x else jnp.rint(small).astype(x.dtype)


def _between(size: int, target: int) -> NDArray[np.float64]:
    """The matrix that interpolates ``target`` values, the first and the last in their places."""
    places = np.linspace(0, size - 1, target)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)[None]), 0)
