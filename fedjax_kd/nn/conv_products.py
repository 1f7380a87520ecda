"""Convolutions as patches x matrix product: what runs where nothing better is known.

``vmap`` over the kernels of ``jax.lax.conv_general_dilated`` gives a grouped convolution, which is
slow, and XLA's CPU convolutions are 10 to 40 times slower inside loops (benchmarks/convolution.py).
Here ``vmap`` gives a batched matrix product, and neither the values nor the gradients need a
convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


class ConvWindow(NamedTuple):
    """How a kernel goes over an input; one number a spatial axis, where it is not said otherwise.

    The high edge of the padding follows from the sizes: it is as wide as the output needs.
    """

    inputs: tuple[int, ...]  # places of the input
    taps: tuple[int, ...]  # of the kernel
    outputs: tuple[int, ...]  # places of the output
    strides: tuple[int, ...]
    low: tuple[int, ...]  # zeros before the first place; negative: places that are left out
    dilation: tuple[int, ...]  # distances between taps
    groups: int = 1  # of features that do not see each other
    precision: Any = None  # as for `lax.dot_general`
    dtype: Any = None  # in which products are accumulated and returned; None: of the operands

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Zeros before and after each spatial axis, as the output needs them."""
        reach = [(taps - 1) * d + 1 for taps, d in zip(self.taps, self.dilation, strict=True)]
        read = [
            (places - 1) * stride + r
            for places, stride, r in zip(self.outputs, self.strides, reach, strict=True)
        ]
        return [
            (low, total - low - size)
            for low, total, size in zip(self.low, read, self.inputs, strict=True)
        ]

    def as_image(self) -> ConvWindow:
        """The window of one spatial axis as that of two, the first of which has one place."""
        one, zero = (1,), (0,)
        return self._replace(
            inputs=one + self.inputs,
            taps=one + self.taps,
            outputs=one + self.outputs,
            strides=one + self.strides,
            low=zero + self.low,
            dilation=one + self.dilation,
        )


Convolution = Callable[[Array, Array, ConvWindow], Array]
"""(operands of a convolution, or of one of its gradients, and its window) -> result"""


def forward(
    x: Float[Array, "B *S I"], kernel: Float[Array, "*W I O"], window: ConvWindow
) -> Float[Array, "B *T O"]:
    """The convolution, features last."""
    x = _padded(x, window)
    if not _is_by_rows(kernel.shape, window):
        patches = _patches(x, window.taps, window.strides, window.dilation)
        return _products(patches, kernel, window)
    *taps, inputs, outputs = kernel.shape
    side_by_side = jnp.moveaxis(kernel, 0, -2).reshape(1, *taps[1:], inputs, taps[0] * outputs)
    return _sum_rows(_products(_row_patches(x, window), side_by_side, window), window)


def input_gradient_of(convolution: Convolution) -> Convolution:
    """The gradient by the input, from that by the output and the kernel, of a way to convolve."""

    def gradient(dy: Array, kernel: Array, window: ConvWindow) -> Array:
        shape = (dy.shape[0], *window.inputs, kernel.shape[-2] * window.groups)
        x = jax.ShapeDtypeStruct(shape, dy.dtype)
        return jax.linear_transpose(lambda x: convolution(x, kernel, window), x)(dy)[0]

    return gradient


def kernel_gradient_of(convolution: Convolution) -> Convolution:
    """The gradient by the kernel, from the input and that by the output, of a way to convolve."""

    def gradient(x: Array, dy: Array, window: ConvWindow) -> Array:
        shape = (*window.taps, x.shape[-1] // window.groups, dy.shape[-1])
        kernel = jax.ShapeDtypeStruct(shape, dy.dtype)
        return jax.linear_transpose(lambda kernel: convolution(x, kernel, window), kernel)(dy)[0]

    return gradient


def kernel_gradient_turned(
    x: Float[Array, "B *S I"], dy: Float[Array, "B *T O"], window: ConvWindow
) -> Float[Array, "*W I O"]:
    """The gradient by the kernel with its product the other way round.

    1.4 times as fast for 32 to 64 features on one CPU, 0.5 to 1.3 times over shapes on another
    (benchmarks.conv_ways). XLA's CPU backend gives ``a.T @ b`` of tall matrices to a slower library
    than ``b.T @ a`` where ``b`` is the narrower one, and folds a transposition behind the product
    back into it, unless a barrier stands between them.
    """
    features = x.shape[-1], dy.shape[-1]
    if window.groups > 1:
        return kernel_gradient_of(forward)(x, dy, window)
    x = _padded(x, window)
    if not _is_by_rows((*window.taps, *features), window):
        patches = _patches(x, window.taps, window.strides, window.dilation)
        return _turned(patches, dy, window).reshape(*window.taps, *features)
    patches = _row_patches(x, window)
    like = jax.ShapeDtypeStruct((*patches.shape[:-1], window.taps[0] * features[1]), dy.dtype)
    (dz,) = jax.linear_transpose(lambda z: _sum_rows(z, window), like)(dy)
    by_row = _turned(patches, dz, window)
    return jnp.moveaxis(by_row.reshape(*window.taps[1:], features[0], window.taps[0], -1), -2, 0)


def _turned(
    patches: Float[Array, "B *T P"], dy: Float[Array, "B *T O"], window: ConvWindow
) -> Float[Array, "P O"]:
    contracted = (((0,), (0,)), ((), ()))
    product = lax.dot_general(
        dy.reshape(-1, dy.shape[-1]),
        patches.reshape(-1, patches.shape[-1]),
        contracted,
        precision=window.precision,
    )
    return lax.optimization_barrier(product).T


def _padded(x: Float[Array, "B *S I"], window: ConvWindow) -> Float[Array, "B *P I"]:
    edges = [(0, 0, 0), *((low, high, 0) for low, high in window.pads), (0, 0, 0)]
    if all(edge == (0, 0, 0) for edge in edges):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _patches(
    x: Float[Array, "B *S D"],
    taps: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> Float[Array, "B *T P"]:
    """The input under the kernel at each place: one slice of it a tap, P = taps x features."""
    places = x.shape[1:-1]
    reach = [(n - 1) * d for n, d in zip(taps, dilation, strict=True)]
    slices = []
    for tap in np.ndindex(*taps):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [s + n - r for s, n, r in zip(start, places, reach, strict=True)]
        slices.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
        )
    return lax.concatenate(slices, x.ndim - 1) if len(slices) > 1 else slices[0]


def _is_by_rows(kernel: Sequence[int], window: ConvWindow) -> bool:
    """Whether patches of one row of taps, and shifted sums, move fewer numbers than all patches.

    The kernel's rows then stand side by side. A 3 x 3 kernel of 16 to 16 features moves 96 numbers
    a place, where patches of all taps move 144; on a CPU it takes 0.6 times as long
    (benchmarks/README.md).
    """
    rows, inner, (inputs, outputs) = kernel[0], math.prod(kernel[1:-2]), kernel[-2:]
    moves_less = inner * inputs + rows * outputs < rows * inner * inputs
    return window.groups == 1 and window.strides[0] == 1 and moves_less


def _row_patches(x: Float[Array, "B *S I"], window: ConvWindow) -> Float[Array, "B *R P"]:
    """Patches of one row of taps, at every row of the input."""
    return _patches(x, (1, *window.taps[1:]), window.strides, (1, *window.dilation[1:]))


def _sum_rows(z: Float[Array, "B *R rO"], window: ConvWindow) -> Float[Array, "B *T O"]:
    """The sums of each row of taps, side by side, added at the places where they belong."""
    rows, dilation = window.taps[0], window.dilation[0]
    outputs, reach = z.shape[-1] // rows, (rows - 1) * dilation
    parts = [
        lax.slice_in_dim(z, shift, z.shape[1] - reach + shift, axis=1)[
            ..., row * outputs : (row + 1) * outputs
        ]
        for row, shift in enumerate(range(0, reach + 1, dilation))
    ]
    return functools.reduce(jnp.add, parts)


def _products(
    patches: Float[Array, "B *T P"], kernel: Float[Array, "*W I O"], window: ConvWindow
) -> Float[Array, "B *T O"]:
    """Patches x kernel, each group of output features with its own group of input features."""
    *taps, inputs, outputs = kernel.shape
    if window.groups == 1:
        # As matrices: a product that contracts several axes is slow in the gradient of the kernel.
        y = jnp.matmul(
            patches.reshape(-1, math.prod(taps) * inputs),
            kernel.reshape(-1, outputs),
            precision=window.precision,
            preferred_element_type=window.dtype,
        )
        return y.reshape(*patches.shape[:-1], outputs)
    y = jnp.einsum(
        "btgi,tigo->bgo",
        patches.reshape(-1, math.prod(taps), window.groups, inputs),
        kernel.reshape(math.prod(taps), inputs, window.groups, outputs // window.groups),
        precision=window.precision,
        preferred_element_type=window.dtype,
    )
    return y.reshape(*patches.shape[:-1], outputs)
