"""Networks with fewer channels: the first ones of every layer, cut out or all others set to zero.

This works on a layer's values alone, so for any module made of dense layers, convolutions and
normalisation whose last axis is that of the channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.nn.linen_modules import changed


def check_separate(norms: Callable[[], Variables] | None) -> None:
    """Raises ValueError if a layer compares channels, which may then not be set to zero."""
    found = set() if norms is None else set(jax.tree.leaves(norms())) & {"group", "layer", "rms"}
    if found:
        raise InputError(
            f"The network has {' and '.join(sorted(found))} normalisation, but channels that are "
            "set to zero would count in its statistics: take batch normalisation (norm='batch')."
        )


def kept(channels: int, width: Scalar, divisor: int = 1) -> int | Int[Array, ""]:
    """How many of a layer's channels a network of this width has.

    The multiple of ``divisor`` nearest to ``width * channels``, or the next one if that would be
    more than a tenth too few; at least one multiple, and never more than all channels.

    Example:
      >>> kept(32, 0.25), kept(12, 0.25, divisor=8), kept(3, 0.1)
      (8, 8, 1)
    """
    if isinstance(width, Real):
        wanted = float(width) * channels
        found = math.floor(wanted / divisor + 0.5) * divisor
        return min(max(found + divisor * (found < 0.9 * wanted), divisor), channels)
    wanted = jnp.asarray(width) * channels
    found = jnp.floor(wanted / divisor + 0.5) * divisor
    found = jnp.where(found < 0.9 * wanted, found + divisor, found)
    return jnp.clip(found, min(divisor, channels), channels).astype(jnp.int32)


def first_channels(x: Float[Array, "*B C"], width: Scalar, divisor: int = 1) -> Array:
    """A layer's outputs, or a vector of its parameters, in a network of this width.

    A number cuts the rest off. A traced width, which cannot change a shape, sets it to zero.

    Example:
      >>> first_channels(jnp.ones(4), 0.5), first_channels(jnp.ones(4), jnp.array(0.5))
      (Array([1., 1.], dtype=float32), Array([1., 1., 0., 0.], dtype=float32))
    """
    count = kept(x.shape[-1], width, divisor)
    if isinstance(count, int):
        return x[..., :count]
    there = jnp.arange(x.shape[-1], dtype=jnp.int32) < count
    return jnp.where(there.reshape((1,) * (x.ndim - 1) + there.shape), x, 0)


def narrow(layers: Variables, width: Scalar, divisor: int = 1) -> Variables:
    """Layers of a network as they are at this width, to be given narrow inputs.

    A number cuts kernels and vectors down, so that the work shrinks with its square. With a traced
    width, outputs beyond it are zero and all shapes stay: the function is the same unless a layer
    compares channels, as layer and group normalisation do.

    Example:
      >>> layer = Variables({"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)})
      >>> jax.tree.map(jnp.shape, narrow(layer, 0.25)).params
      {'bias': (4,), 'kernel': (3, 3, 2, 4)}
    """

    def cut(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        leaf = first_channels(leaf, width, divisor)
        if leaf.ndim == 1 or not isinstance(width, Real):
            return leaf
        return leaf[..., : kept(leaf.shape[-2], width, divisor), :]

    return jax.tree.map(cut, layers)


def as_wide(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: linen.module.InterceptorContext,
) -> Any:
    """Calls a Linen method; a layer has as many features as its kernel, which may be narrow."""
    module = context.module
    if (
        isinstance(module, linen.Dense | linen.Conv)
        and context.method_name == "__call__"
        and module.has_variable("params", "kernel")
    ):
        features: int = module.get_variable("params", "kernel").shape[-1]
        if features != module.features:
            return changed(module, features=features)(*arguments, **options)
    return call(*arguments, **options)
