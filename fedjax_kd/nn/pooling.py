"""Pooling that stays fast under ``vmap``: windows that do not overlap are axes of a reshape."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    inputs: Float[Array, "*B D"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "*B D"]:
    """The maximum of each window; equal to ``flax.linen.max_pool``, gradients of ties apart.

    Where several places of a window hold the maximum, they share its gradient; ``flax`` gives it to
    the first.

    Args:
      inputs: ``[..., spatial axes, D]``.
      window_shape: sizes of the window, one a spatial axis.
      strides: steps of the window; 1 if None, as in Flax.
      padding: ``"VALID"``, ``"SAME"`` or ``(low, high)`` pairs.

    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2))[0, ..., 0]
      Array([[ 5.,  7.],
             [13., 15.]], dtype=float32)
    """
    if _apart(inputs, window_shape, strides, padding):
        if tuple(window_shape) == (2, 2):
            height, width = (side // 2 * 2 for side in inputs.shape[-3:-1])
            return _largest_of_four(inputs[..., :height, :width, :])
        return _by_reshape(jnp.max, inputs, window_shape)
    return linen.max_pool(inputs, tuple(window_shape), strides, padding)


def avg_pool(
    inputs: Float[Array, "*B D"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "*B D"]:
    """The mean of each window, padding counted as zeros; equal to ``flax.linen.avg_pool``.

    Args:
      inputs: ``[..., spatial axes, D]``.
      window_shape: sizes of the window, one a spatial axis.
      strides: steps of the window; 1 if None, as in Flax.
      padding: ``"VALID"``, ``"SAME"`` or ``(low, high)`` pairs.

    Example:
      >>> avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1), (2, 2), (2, 2)).ravel()
      Array([1.5], dtype=float32)
    """
    if _apart(inputs, window_shape, strides, padding):
        return _by_reshape(jnp.mean, inputs, window_shape)
    total = linen.pool(inputs, 0.0, lax.add, tuple(window_shape), strides, padding)
    return total / math.prod(window_shape)


def _apart(
    inputs: Array, window: Sequence[int], strides: Sequence[int] | None, padding: Padding
) -> bool:
    """Whether no window overlaps another or the edge."""
    return (
        padding == "VALID"
        and strides is not None
        and tuple(strides) == tuple(window)
        and inputs.ndim > len(window)
        and all(n >= k for n, k in zip(inputs.shape[-len(window) - 1 : -1], window, strict=True))
    )


def _corners(x: Float[Array, "*B H W D"]) -> list[Float[Array, "*B h w D"]]:
    """The four places of each 2 x 2 window of an image with even sides."""
    return [x[..., row::2, column::2, :] for row in (0, 1) for column in (0, 1)]


@jax.custom_jvp
def _largest_of_four(x: Float[Array, "*B H W D"]) -> Float[Array, "*B h w D"]:
    """The maximum of each 2 x 2 window of an image with even sides."""
    return functools.reduce(jnp.maximum, _corners(x))


@_largest_of_four.defjvp
def _largest_of_four_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # By slices, the gradient would put zeros between its numbers and add four such images: so the
    # tangent is summed over axes of a reshape. What can be done at a quarter of the size, is.
    (x,), (dx,) = primals, tangents
    y = _largest_of_four(x)
    windows = (*x.shape[:-3], x.shape[-3] // 2, 2, x.shape[-2] // 2, 2, x.shape[-1])
    everywhere = jnp.broadcast_to(jnp.expand_dims(y, (-4, -2)), windows).reshape(x.shape)
    ties = sum((corner == y).astype(x.dtype) for corner in _corners(x))
    of_largest = jnp.where(x == everywhere, dx, 0).reshape(windows).sum(axis=(-4, -2))
    return y, of_largest / ties


def _by_reshape(
    reduce: Callable[..., Array], inputs: Float[Array, "*B D"], window: Sequence[int]
) -> Float[Array, "*B D"]:
    """Every spatial axis becomes (windows, window), and ``reduce`` takes the latter."""
    first = inputs.ndim - len(window) - 1
    counts = [n // k for n, k in zip(inputs.shape[first:-1], window, strict=True)]
    kept = tuple(slice(count * k) for count, k in zip(counts, window, strict=True))
    split = [size for pair in zip(counts, window, strict=True) for size in pair]
    windows = inputs[(..., *kept, slice(None))].reshape(
        *inputs.shape[:first], *split, inputs.shape[-1]
    )
    return reduce(windows, axis=tuple(range(first + 1, inputs.ndim - 1 + len(window), 2)))
