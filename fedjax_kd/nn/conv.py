"""``lax.conv_general_dilated`` in a form that stays fast when models are stacked or run in loops.

Features go last, padding and dilation are written out; the convolution and its two gradients are
operations of their own (`fedjax_kd.nn.conv_primitive`), computed in the way that is best for the
platform (`fedjax_kd.nn.conv_lowering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fedjax_kd.errors import InputError
from fedjax_kd.nn import conv_products
from fedjax_kd.nn.conv_lowering import convolve
from fedjax_kd.nn.conv_products import ConvWindow

Pairs = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Pairs,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """``jax.lax.conv_general_dilated`` without a convolution; give it to ``flax``'s ``Conv``.

    Args:
      lhs: inputs, in any layout that ``dimension_numbers`` describes; any number of spatial axes.
      rhs: kernels.
      window_strides: steps of the window, one a spatial axis.
      padding: ``"SAME"``, ``"SAME_LOWER"``, ``"VALID"`` or ``(low, high)`` pairs; with
        ``lhs_dilation`` pairs only, as in ``lax``.
      lhs_dilation: distances between inputs: ``d - 1`` zeros are put between neighbours.
      rhs_dilation: distances between the taps of the kernel.
      dimension_numbers: as for ``lax``: None, three strings, or ``ConvDimensionNumbers``.
      feature_group_count: groups of features that do not see each other.
      batch_group_count: must be 1.
      precision: as for ``lax.dot_general``.
      preferred_element_type: the dtype in which products are accumulated and returned.
      out_sharding: must be None.

    Raises:
      ValueError: if ``batch_group_count`` or ``out_sharding`` is given, if dilated inputs come
        with a padding in words, or if shapes do not fit.

    Example:
      >>> x, kernel = jnp.ones((1, 3, 4, 4)), jnp.ones((2, 3, 3, 3))
      >>> conv_general_dilated(x, kernel, (1, 1), "VALID")[0, 0]
      Array([[27., 27.],
             [27., 27.]], dtype=float32)
    """
    if batch_group_count != 1 or out_sharding is not None:
        raise InputError(
            f"batch_group_count is {batch_group_count} and out_sharding {out_sharding}, but only 1 "
            "and None are possible here: use jax.lax.conv_general_dilated for the others."
        )
    names = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ones = (1,) * (lhs.ndim - 2)
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or ones), tuple(rhs_dilation or ones)
    x = lhs.transpose(names.lhs_spec[0], *names.lhs_spec[2:], names.lhs_spec[1])
    kernel = rhs.transpose(*names.rhs_spec[2:], names.rhs_spec[1], names.rhs_spec[0])
    _check_features(x.shape[-1], kernel.shape, feature_group_count)
    taps = kernel.shape[: len(ones)]
    reach = [(n - 1) * d + 1 for n, d in zip(taps, rhs_dilation, strict=True)]
    pads = _pads(x.shape[1:-1], reach, window_strides, padding, lhs_dilation)
    if max(lhs_dilation) > 1:
        between = [(0, 0, 0), *((0, 0, d - 1) for d in lhs_dilation), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), between)
    window = ConvWindow(
        x.shape[1:-1],
        taps,
        _places(x.shape[1:-1], reach, window_strides, pads),
        tuple(window_strides),
        tuple(low for low, _ in pads),
        rhs_dilation,
        feature_group_count,
        precision,
        preferred_element_type,
    )
    y = _convolved(x, kernel, window)
    back = np.argsort((names.out_spec[0], *names.out_spec[2:], names.out_spec[1]))
    return y.transpose(tuple(int(axis) for axis in back))


def _convolved(x: Array, kernel: Array, window: ConvWindow) -> Array:
    """The convolution: an operation of its own where operands and result are of one type."""
    dtype = window.dtype or x.dtype
    if not all(window.outputs):
        return jnp.zeros((x.shape[0], *window.outputs, kernel.shape[-1]), dtype)
    if x.dtype == kernel.dtype == dtype and jnp.issubdtype(dtype, jnp.floating):
        window = window._replace(dtype=None)
        if len(window.taps) > 1:
            return convolve(x, kernel, window)
        return convolve(x[:, None], kernel[None], window.as_image())[:, 0]
    return conv_products.forward(x, kernel, window)


def _pads(
    places: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
    padding: str | Pairs,
    dilation: tuple[int, ...],
) -> Pairs:
    """Zeros before and after each spatial axis."""
    if isinstance(padding, str):
        if max(dilation) > 1:
            raise InputError(
                f"padding is {padding!r} with lhs_dilation {dilation}, but dilated inputs need "
                "(low, high) pairs: write the padding out."
            )
        padding = lax.padtype_to_pads(places, reach, strides, padding)
    return [(int(low), int(high)) for low, high in padding]


def _places(
    places: Sequence[int], reach: Sequence[int], strides: Sequence[int], pads: Pairs
) -> tuple[int, ...]:
    """Places of the output along each spatial axis."""
    padded = [n + low + high for n, (low, high) in zip(places, pads, strict=True)]
    return tuple(
        max((n - r) // stride + 1, 0) for n, r, stride in zip(padded, reach, strides, strict=True)
    )


def _check_features(features: int, kernel: Sequence[int], groups: int) -> None:
    """Raises if the kernel does not fit the features of the input, or the groups either."""
    if features != kernel[-2] * groups or kernel[-1] % groups:
        raise InputError(
            f"the input has {features} features and the kernel {kernel[-2]} x {groups} groups -> "
            f"{kernel[-1]}, but features must equal kernel x groups, and groups must divide the "
            "output: check in_features and feature_group_count."
        )
