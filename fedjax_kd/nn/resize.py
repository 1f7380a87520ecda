"""Images of another size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num
from numpy.typing import NDArray


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
        raise ValueError(
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
