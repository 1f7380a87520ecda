"""Codecs: what the receiver of a message has, and how many bytes its encoding takes.

Shapes are static, so nothing gets smaller here: a `Sent` holds what the receiver decodes, and the
bytes of the encoding beside it. Wrappers (`fedjax_kd.wrappers`) put codecs between the clients and
the server of any method.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.core import Key, PyTree

Scope = Literal["message", "tensor"]

_SEED_BYTES = 8  # of what both sides draw alike: positions, rotations


class Sent(NamedTuple):
    """What a receiver has of a message, or of one vector."""

    decoded: PyTree
    size: Int[Array, ""]  # bytes of the encoding
    entropy: Float[Array, ""]  # bytes that an ideal entropy coder is estimated to need


# (key, a tree of floats, the round's number) -> what arrives; the key is another for each client
# and round.
Codec = Callable[[Key, PyTree, Int[Array, ""]], Sent]

# The same for a vector [n] of at least one number.
OfVector = Callable[[Key, Float[Array, " n"], Int[Array, ""]], Sent]


def encoded(decoded: PyTree, size: Array | int, entropy: Array | float | None = None) -> Sent:
    """A `Sent` whose entropy-coded size is that of the plain encoding, if it has no estimate."""
    counted = jnp.asarray(size, jnp.int32)
    return Sent(decoded, counted, jnp.asarray(counted if entropy is None else entropy, jnp.float32))


def codec_of(one: OfVector, scope: Scope, *, raw: bool = True, seeded: bool = False) -> Codec:
    """A codec of messages from one of vectors, which is used on each tensor or on all as one.

    Args:
      one: of a vector.
      scope: whether a vector is a tensor or the whole message, whose dtype is that of its tensors'
        promotion.
      raw: whether a vector is sent as it is where that takes no more bytes.
      seeded: whether a message carries a seed of 8 bytes.

    Example:
      >>> halved = codec_of(lambda key, v, number: encoded(v / 2, len(v)), "tensor")
      >>> halved(jax.random.key(0), {"w": jnp.ones(4)}, jnp.int32(0))[:2]
      ({'w': Array([0.5, 0.5, 0.5, 0.5], dtype=float32)}, Array(4, dtype=int32))
    """

    def encode(key: Key, values: PyTree, number: Array) -> Sent:
        leaves, structure = jax.tree.flatten(values)
        vectors = [jnp.ravel(leaf) for leaf in leaves if leaf.size]
        if scope == "message" and len(vectors) > 1:
            vectors = [jnp.concatenate(_of_one_dtype(vectors))]
        keys = list(jax.random.split(key, len(vectors))) if vectors else []
        send = _or_raw(one) if raw else one
        coded = [send(k, v, number) for k, v in zip(keys, vectors, strict=True)]
        flat = jnp.concatenate(_of_one_dtype([part.decoded for part in coded] or [jnp.zeros(0)]))
        ends = accumulate(leaf.size for leaf in leaves)
        decoded = [
            flat[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        seed = _SEED_BYTES if seeded else 0
        size = sum((part.size for part in coded), jnp.int32(seed))
        entropy = sum((part.entropy for part in coded), jnp.float32(seed))
        return Sent(jax.tree.unflatten(structure, decoded), size, entropy)

    return encode


def packed(count: int, bits: int) -> int:
    """Whole bytes of ``count`` codes of so many bits.

    Example:
      >>> packed(1001, 4)
      501
    """
    return -(-count * bits // 8)


def entropy_bytes(codes: Int[Array, " n"], kinds: int) -> Float[Array, ""]:
    """What FedJAX estimates that arithmetic coding of integers takes, with their histogram.

        bits = k log2(e (n + k) / k) + n H + 64 + 2

    with k, how many different codes there are, H, the entropy of their frequencies, 64 bits for two
    floats and 2 of the coder's end (Suresh et al., 2017, arXiv:1611.00429).

    Args:
      codes: in ``[0, kinds)``.
      kinds: how many there could be.

    Example:
      >>> entropy_bytes(jnp.array([0, 1, 1, 0]), 2)
      Array(9.506914, dtype=float32)
    """
    counts = jnp.zeros(kinds, jnp.float32).at[codes].add(1, mode="drop")
    different, n = (counts > 0).sum().astype(jnp.float32), len(codes)
    share = counts / n
    entropy = -jnp.where(counts > 0, share * jnp.log2(jnp.where(counts > 0, share, 1)), 0).sum()
    histogram = different * jnp.log2(jnp.e * (n + different) / different)
    return (histogram + n * entropy + 66) / 8


def _or_raw(one: OfVector) -> OfVector:
    def either(key: Key, vector: Array, number: Array) -> Sent:
        coded, whole = one(key, vector, number), tree.num_bytes(vector)
        decoded = jnp.where(coded.size < whole, coded.decoded, vector)
        return encoded(decoded, jnp.minimum(coded.size, whole), jnp.minimum(coded.entropy, whole))

    return either


def _of_one_dtype(vectors: list[Array]) -> list[Array]:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*vectors)
    return [vector.astype(dtype) for vector in vectors]
