"""Random bits that cost little: a hash of a counter in place of a cipher.

Threefry, JAX's own generator, took a quarter of a CNN's local step on a CPU, for the bits of its
dropout alone. Keys are still made by Threefry; only the last step, from a key to an array of bits,
is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jaxtyping import Array, UInt32

_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: multiples of it spread evenly


def mix(bits: UInt32[Array, " *shape"]) -> UInt32[Array, " *shape"]:
    """A bijective hash of 32 bits in which every input bit changes about half of the output."""
    u32 = jnp.uint32
    bits = (bits ^ (bits >> u32(16))) * u32(0x7FEB352D)
    bits = (bits ^ (bits >> u32(15))) * u32(0x846CA68B)
    return bits ^ (bits >> u32(16))


def cheap(key: jax.Array) -> jax.Array:
    """The same key, with cheap bits wherever an array is drawn from it or from its descendants.

    Good enough for dropout, noise and augmentation; no cipher, so of no use for privacy.

    Example:
      >>> key = cheap(jax.random.key(0))
      >>> jax.random.bernoulli(key, 0.25, (1000,)).mean()
      Array(0.25, dtype=float32)
    """
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_IMPL)


def _random_bits(key: UInt32[Array, " 2"], bit_width: int, shape: Sequence[int]) -> Array:
    """``bit_width`` bits for each place of an array, from its number and the two words of a key."""
    if bit_width == 64:
        low, high = (_words(key + jnp.uint32(n), shape).astype(jnp.uint64) for n in (0, 1))
        return (high << jnp.uint64(32)) | low
    words = _words(key, shape)
    return (words >> jnp.uint32(32 - bit_width)).astype(f"uint{bit_width}")


def _words(key: UInt32[Array, " 2"], shape: Sequence[int]) -> UInt32[Array, " *shape"]:
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    # 1: so that the key of two zeros does not give a zero at place zero.
    return mix(mix((place + jnp.uint32(1)) * jnp.uint32(_GOLDEN) + key[0]) ^ key[1])


_IMPL = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=threefry_prng_impl.split,
    random_bits=_random_bits,
    fold_in=threefry_prng_impl.fold_in,
    name="fedjax_kd_cheap",
    tag="cheap",
)


def leaf_keys(key: jax.Array, tree: Any) -> Any:
    """A key for each leaf of a tree, in a tree of its structure."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(structure, [keys[n] for n in range(len(leaves))])


def normal_like(key: jax.Array, tree: Any, deviation: float | jax.Array = 1.0) -> Any:
    """Gaussian numbers of the shapes and types of a tree's leaves.

    Example:
      >>> normal_like(jax.random.key(0), {"w": jnp.zeros(2), "b": jnp.zeros(())}, 0.0)
      {'b': Array(0., dtype=float32), 'w': Array([0., 0.], dtype=float32)}
    """

    def drawn(own: jax.Array, a: Any) -> jax.Array:
        return jnp.asarray(deviation, a.dtype) * jax.random.normal(own, a.shape, a.dtype)

    return jax.tree.map(drawn, leaf_keys(key, tree), tree)
