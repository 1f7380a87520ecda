"""Convolutions as three primitives of JAX that are each other's gradients.

A convolution is linear in its input and in its kernel, and so are its two gradients in what they
are made of: each of the three has the other two as its gradients, to any order, forward and in
reverse. How each is computed is chosen when a program is lowered, by the platform it is lowered
for; a program for an accelerator never names what is there for CPUs alone.

Operands have a leading axis of clients, 1 where all share them: ``vmap`` stays one call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array

from fedjax_kd.nn.conv_products import ConvWindow

forward_p = Primitive("conv_forward")  # input, kernel -> output
input_p = Primitive("conv_input_gradient")  # gradient of the output, kernel -> of the input
kernel_p = Primitive("conv_kernel_gradient")  # input, gradient of the output -> of the kernel

Gradient = Callable[[Array, Array, ConvWindow], Array]
"""(cotangent of the result, the other operand, window) -> cotangent of an operand"""


def result_shape(primitive: Primitive, a: Any, b: Any, window: ConvWindow) -> tuple[int, ...]:
    """The shape of one client's result, from its operands."""
    inputs, outputs = a.shape[-1], b.shape[-1]
    if primitive is kernel_p:
        return (*window.taps, inputs // window.groups, outputs)
    batch = a.shape[-2 - len(window.taps)]
    if primitive is input_p:
        return (batch, *window.inputs, b.shape[-2] * window.groups)
    return (batch, *window.outputs, outputs)


def _summed_like(value: Array, operand: Any) -> Array:
    """The gradient of an operand that all clients share is the sum of theirs."""
    shared = operand.aval.shape[0] == 1 and value.shape[0] > 1
    return value.sum(axis=0, keepdims=True) if shared else value


def _define(primitive: Primitive, by_first: Gradient, by_second: Gradient) -> None:
    """Types, gradients and evaluation outside of ``jit``."""

    def abstract(a: ShapedArray, b: ShapedArray, *, window: ConvWindow) -> ShapedArray:
        shape = result_shape(primitive, a, b, window)
        return ShapedArray((max(a.shape[0], b.shape[0]), *shape), a.dtype)

    def transpose_first(ct: Array, a: Any, b: Array, *, window: ConvWindow) -> Array:
        return _summed_like(by_first(ct, b, window), a)

    def transpose_second(ct: Array, a: Array, b: Any, *, window: ConvWindow) -> Array:
        return _summed_like(by_second(ct, a, window), b)

    @functools.cache
    def compiled(window: ConvWindow) -> Callable[..., Array]:
        return jax.jit(functools.partial(primitive.bind, window=window))

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(lambda a, b, *, window: compiled(window)(a, b))
    ad.defbilinear(primitive, transpose_first, transpose_second)


_define(
    forward_p,
    lambda ct, kernel, window: input_p.bind(ct, kernel, window=window),
    lambda ct, x, window: kernel_p.bind(x, ct, window=window),
)
_define(
    input_p,
    lambda ct, kernel, window: forward_p.bind(ct, kernel, window=window),
    lambda ct, dy, window: kernel_p.bind(ct, dy, window=window),
)
_define(
    kernel_p,
    lambda ct, dy, window: input_p.bind(dy, ct, window=window),
    lambda ct, x, window: forward_p.bind(x, ct, window=window),
)


def _in_front(operand: Array, axis: int | None) -> Array:
    """``[V, G, ...]``, V being 1 where the operand is not batched."""
    return operand[None] if axis is None else jnp.moveaxis(operand, axis, 0)


def _merged(operand: Array, lanes: int, clients: int) -> Array:
    """``[V, G, ...]`` as ``[V G, ...]``, or as ``[1, ...]`` if it is the same for all."""
    if operand.shape[:2] == (1, 1):
        return operand[0]
    full = jnp.broadcast_to(operand, (lanes, clients, *operand.shape[2:]))
    return full.reshape(lanes * clients, *operand.shape[2:])


def _batched(primitive: Primitive, has_kernel: bool) -> None:
    """``vmap``: more clients, or, where all share a kernel, more examples."""

    def rule(
        operands: Sequence[Array], axes: Sequence[int | None], *, window: ConvWindow
    ) -> tuple[Array, int]:
        a, b = map(_in_front, operands, axes)
        lanes, clients = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
        if has_kernel and b.shape[:2] == (1, 1):
            y = primitive.bind(a.reshape(1, -1, *a.shape[3:]), b[0], window=window)
            return y.reshape(lanes, clients, -1, *y.shape[2:]), 0
        y = primitive.bind(_merged(a, lanes, clients), _merged(b, lanes, clients), window=window)
        return y.reshape(lanes, clients, *y.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule


_batched(forward_p, has_kernel=True)
_batched(input_p, has_kernel=True)
_batched(kernel_p, has_kernel=False)
