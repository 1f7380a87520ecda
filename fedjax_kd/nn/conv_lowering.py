"""How a convolution and its gradients are computed on each platform.

The choice is made when a program is lowered, by the platform that it is lowered for: a program for
an accelerator never names what is there for CPUs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array, Float

from fedjax_kd.nn import conv_products
from fedjax_kd.nn.conv_primitive import forward_p, input_p, kernel_p, result_shape
from fedjax_kd.nn.conv_products import Convolution, ConvWindow
from fedjax_kd.nn.native import library

_FEW = 4  # features

_counting: ContextVar[bool] = ContextVar("counting", default=False)


@contextmanager
def as_products() -> Iterator[None]:
    """Programs that are lowered within call nothing foreign: XLA counts their operations."""
    token = _counting.set(True)
    try:
        yield
    finally:
        _counting.reset(token)


def _lax_forward(x: Array, kernel: Array, window: ConvWindow) -> Array:
    # Letters of the spatial axes: any will do that are not those of batch and features.
    spatial = "".join(chr(ord("0") + axis) for axis in range(len(window.taps)))
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.pads,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=window.groups,
        precision=window.precision,
    )


class Ways(NamedTuple):
    """The ways to compute one of the three."""

    primitive: Primitive
    products: Convolution
    on_cpu: Convolution  # products where there is nothing native
    lax: Convolution
    target: str  # of XLA's foreign function interface


def _make_ways() -> tuple[Ways, Ways, Ways]:
    """Of the convolution, its gradient by the input, and its gradient by the kernel."""
    plain = conv_products.forward
    by_input, by_kernel = conv_products.input_gradient_of, conv_products.kernel_gradient_of
    turned = conv_products.kernel_gradient_turned
    convolution, input_gradient, kernel_gradient = library.TARGETS
    return (
        Ways(forward_p, plain, plain, _lax_forward, convolution),
        Ways(input_p, by_input(plain), by_input(plain), by_input(_lax_forward), input_gradient),
        Ways(kernel_p, by_kernel(plain), turned, by_kernel(_lax_forward), kernel_gradient),
    )


WAYS = _make_ways()


def of_each_client(one: Convolution) -> Callable[..., Array]:
    """``one`` for operands with a leading axis of clients, which is 1 where all share them."""

    def each(a: Array, b: Array, *, window: ConvWindow) -> Array:
        if max(len(a), len(b)) == 1:
            return one(a[0], b[0], window)[None]
        axes = [None if len(operand) == 1 else 0 for operand in (a, b)]
        own = [operand[0] if len(operand) == 1 else operand for operand in (a, b)]
        return jax.vmap(lambda a, b: one(a, b, window), in_axes=axes)(*own)

    return each


def is_native(primitive: Primitive, a: Array, b: Array, window: ConvWindow) -> bool:
    """Whether the native code is there and as fast as products (benchmarks.conv_ways)."""
    # Vectors run along the features that are made: few of them would leave most lanes empty.
    few = primitive is input_p and window.groups == 1 and b.shape[-2] < _FEW
    return (
        len(window.taps) == 2
        and (window.taps != (1, 1) or window.groups > 1)  # else it is a single product
        and not few
        and a.dtype == jnp.float32
        and min(a.size, b.size) > 0
        and not _counting.get()
        and library.is_available()
    )


def natively(ways: Ways, a: Array, b: Array, window: ConvWindow) -> Array:
    """One call for all clients."""
    shape = (max(len(a), len(b)), *result_shape(ways.primitive, a, b, window))
    return jax.ffi.ffi_call(ways.target, jax.ShapeDtypeStruct(shape, a.dtype))(
        a,
        b,
        stride=np.array(window.strides),
        low=np.array(window.low),
        dilation=np.array(window.dilation),
        groups=np.int64(window.groups),
    )


def _register(ways: Ways) -> None:
    def on_cpu(a: Array, b: Array, *, window: ConvWindow) -> Array:
        if is_native(ways.primitive, a, b, window):
            return natively(ways, a, b, window)
        return of_each_client(ways.on_cpu)(a, b, window=window)

    by_platform = {
        None: of_each_client(ways.products),
        "cpu": on_cpu,
        "tpu": of_each_client(ways.lax),
    }
    for platform, way in by_platform.items():
        rule = mlir.lower_fun(way, multiple_results=False)
        mlir.register_lowering(ways.primitive, rule, platform=platform)


for _ways in WAYS:
    _register(_ways)


def convolve(
    x: Float[Array, "B *S I"], kernel: Float[Array, "*W I O"], window: ConvWindow
) -> Float[Array, "B *T O"]:
    """A convolution with features last, of operands of one floating type."""
    return forward_p.bind(x[None], kernel[None], window=window)[0]
