"""Group normalisation whose sums are taken place by place, and batch normalisation as set here."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError


class GroupNorm(nnx.GroupNorm):
    """``flax.nnx.GroupNorm``, equal up to rounding, with its attributes.

    Flax sums over places and the features of a group at once, which XLA's CPU compiler does one
    number at a time. Here places are summed first, for all features together; a ResNet-8's local
    step takes 0.87 of the time.

    Example:
      >>> x = jnp.arange(8.0).reshape(1, 2, 4)
      >>> layer, flax_layer = (kind(4, 2, rngs=nnx.Rngs(0)) for kind in (GroupNorm, nnx.GroupNorm))
      >>> bool(jnp.allclose(layer(x), flax_layer(x), atol=1e-6))
      True
    """

    def __call__(
        self, x: Float[Array, "B *S D"], *, mask: Array | None = None
    ) -> Float[Array, "B *S D"]:
        """Normalises ``x``; unusual settings are left to Flax."""
        if (
            mask is not None
            or self.reduction_axes is not None
            or self.axis_name is not None
            or not self.use_fast_variance
        ):
            return super().__call__(x, mask=mask)
        given = [None if p is None else p[...] for p in (self.scale, self.bias)]
        promoted: Any = self.promote_dtype((x, *given), dtype=self.dtype)
        short, scale, bias = promoted
        wide = short.astype(jnp.float32) if short.dtype.itemsize < 4 else short
        places = tuple(range(1, x.ndim - 1))
        count = math.prod(x.shape[1:-1]) * self._size(x.shape[-1])
        mean, square = (self._by_group(v.sum(places)) / count for v in (wide, wide * wide))
        factor = 1 / jnp.sqrt(jnp.maximum(square - mean * mean, 0) + self.epsilon)
        if scale is not None:
            factor = factor * scale[None].astype(factor.dtype)
        # One factor and one offset for each feature leave two sums over places to the gradient.
        offset = -mean * factor
        if bias is not None:
            offset = offset + bias[None].astype(offset.dtype)
        y = wide * jnp.expand_dims(factor, places) + jnp.expand_dims(offset, places)
        return y.astype(short.dtype)

    def _by_group(self, sums: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Each feature's group's sum."""
        size = self._size(sums.shape[1])
        grouped = sums.reshape(len(sums), self.num_groups, size).sum(-1)
        return jnp.repeat(grouped, size, axis=1)

    def _size(self, features: int) -> int:
        """Features of a group; a narrower network has as many groups of fewer."""
        if features % self.num_groups:
            raise InputError(
                f"A layer has {features} features, but its normalisation {self.num_groups} groups, "
                "which must divide them: take another width, a `divisor` that is a multiple of the "
                "groups, or batch normalisation."
            )
        return features // self.num_groups


def batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation with the constants of PyTorch, which the literature's networks have."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)
