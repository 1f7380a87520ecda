"""A convolution as patches x matrix product, for models that are stacked or run in loops.

``vmap`` over the kernels of ``jax.lax.conv_general_dilated`` gives a grouped convolution, which is
slow, and XLA's CPU convolutions are 10 to 40 times slower inside loops (benchmarks/convolution.py).
Here ``vmap`` gives a batched matrix product, and neither the values nor the gradients need a
convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError

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
    spatial = lhs.ndim - 2
    ones = (1,) * spatial
    lhs_dilation, rhs_dilation = tuple(lhs_dilation or ones), tuple(rhs_dilation or ones)
    x = lhs.transpose(names.lhs_spec[0], *names.lhs_spec[2:], names.lhs_spec[1])
    kernel = rhs.transpose(*names.rhs_spec[2:], names.rhs_spec[1], names.rhs_spec[0])
    window = kernel.shape[:spatial]
    _check_features(x.shape[-1], kernel.shape, feature_group_count)
    reach = [(taps - 1) * d + 1 for taps, d in zip(window, rhs_dilation, strict=True)]
    edges = _edges(x.shape[1:-1], reach, window_strides, padding, lhs_dilation)
    if any(edge != (0, 0, 0) for edge in edges):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    product = functools.partial(
        _products,
        groups=feature_group_count,
        precision=precision,
        dtype=preferred_element_type,
    )
    if feature_group_count == 1 and window_strides[0] == 1 and _rows_move_less(kernel.shape):
        y = _by_rows(x, kernel, window_strides, rhs_dilation, product)
    else:
        y = product(_patches(x, window, window_strides, rhs_dilation), kernel)
    back = np.argsort((names.out_spec[0], *names.out_spec[2:], names.out_spec[1]))
    return y.transpose(tuple(int(axis) for axis in back))


def with_matrix_products(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: linen.module.InterceptorContext,
) -> Any:
    """Calls a Linen method, for ``linen.intercept_methods``: ordinary convolutions become ours."""
    module = context.module
    if (
        isinstance(module, linen.Conv)
        and context.method_name == "__call__"
        and module.conv_general_dilated is None
        and module.conv_general_dilated_cls is None
    ):
        own = module.clone(
            parent=module.scope, name=None, conv_general_dilated=conv_general_dilated
        )
        return own(*arguments, **options)
    return call(*arguments, **options)


def _edges(
    places: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
    padding: str | Pairs,
    dilation: tuple[int, ...],
) -> list[tuple[int, int, int]]:
    """Zeros before, after and between the places of each spatial axis."""
    if isinstance(padding, str):
        if max(dilation) > 1:
            raise InputError(
                f"padding is {padding!r} with lhs_dilation {dilation}, but dilated inputs need "
                "(low, high) pairs: write the padding out."
            )
        padding = lax.padtype_to_pads(places, reach, strides, padding)
    return [(low, high, d - 1) for (low, high), d in zip(padding, dilation, strict=True)]


def _patches(
    x: Float[Array, "B *S D"],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> Float[Array, "B *T P"]:
    """The input under the kernel at each place: one slice of it a tap, P = taps x features."""
    places = x.shape[1:-1]
    reach = [(taps - 1) * d for taps, d in zip(window, dilation, strict=True)]
    slices = []
    for tap in np.ndindex(*window):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [s + n - r for s, n, r in zip(start, places, reach, strict=True)]
        slices.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
        )
    return lax.concatenate(slices, x.ndim - 1) if len(slices) > 1 else slices[0]


def _rows_move_less(kernel: Sequence[int]) -> bool:
    """Whether `_by_rows` has fewer numbers to move than patches of all taps."""
    rows, inner, (inputs, outputs) = kernel[0], math.prod(kernel[1:-2]), kernel[-2:]
    return inner * inputs + rows * outputs < rows * inner * inputs


def _by_rows(
    x: Float[Array, "B *S I"],
    kernel: Float[Array, "*W I O"],
    strides: Sequence[int],
    dilation: Sequence[int],
    product: Callable[[Array, Array], Array],
) -> Float[Array, "B *T O"]:
    """Patches of one row of taps x the kernel's rows side by side, and shifted sums of the results.

    A 3 x 3 kernel of 16 to 16 features moves 96 numbers a place, where patches of all taps move
    144; on a CPU it takes 0.6 times as long (benchmarks/README.md).
    """
    rows, *window = kernel.shape[:-2]
    inputs, outputs = kernel.shape[-2:]
    patches = _patches(x, (1, *window), strides, (1, *dilation[1:]))
    z = product(patches, jnp.moveaxis(kernel, 0, -2).reshape(1, *window, inputs, rows * outputs))
    reach = (rows - 1) * dilation[0]
    parts = [
        lax.slice_in_dim(z, shift, z.shape[1] - reach + shift, axis=1)[
            ..., row * outputs : (row + 1) * outputs
        ]
        for row, shift in enumerate(range(0, reach + 1, dilation[0]))
    ]
    return functools.reduce(jnp.add, parts)


def _products(
    patches: Float[Array, "B *T P"],
    kernel: Float[Array, "*W I O"],
    groups: int,
    precision: Any,
    dtype: Any,
) -> Float[Array, "B *T O"]:
    """Patches x kernel, each group of output features with its own group of input features."""
    *window, inputs, outputs = kernel.shape
    taps = math.prod(window)
    if groups == 1:
        # As matrices: a product that contracts several axes is slow in the gradient of the kernel.
        y = jnp.matmul(
            patches.reshape(-1, taps * inputs),
            kernel.reshape(taps * inputs, outputs),
            precision=precision,
            preferred_element_type=dtype,
        )
        return y.reshape(*patches.shape[:-1], outputs)
    grouped = patches.reshape(-1, taps, groups, inputs)
    y = jnp.einsum(
        "btgi,tigo->bgo",
        grouped,
        kernel.reshape(taps, inputs, groups, outputs // groups),
        precision=precision,
        preferred_element_type=dtype,
    )
    return y.reshape(*patches.shape[:-1], outputs)


def _check_features(features: int, kernel: Sequence[int], groups: int) -> None:
    """Raises if the kernel does not fit the features of the input, or the groups either."""
    if features != kernel[-2] * groups or kernel[-1] % groups:
        raise InputError(
            f"the input has {features} features and the kernel {kernel[-2]} x {groups} groups -> "
            f"{kernel[-1]}, but features must equal kernel x groups, and groups must divide the "
            "output: check in_features and feature_group_count."
        )
