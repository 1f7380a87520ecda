"""Sums of whole numbers modulo 2^32: all that a server sees under secure aggregation.

Masks of pairs of clients cancel in the sum, so that simulations need none of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt

from fedjax_kd.core import Reducer, Scalar

WORD = 2**32


def _summed(values: Array, weights: Array, present: Array) -> tuple[Array, Array]:
    there = present.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    # Weights travel masked as well; here they tell an upload that is no number.
    return (values * there).sum(0, dtype=values.dtype), (weights * present).sum()


_PUBLIC_KEY, _SHARE = 32, 32  # bytes
_PAIR = 2 * _SHARE + 28  # with a nonce of 12 bytes and a tag of 16

modular_sum = Reducer("modular sum", _summed, lambda summed, votes: summed)
"""The sum of unsigned integers over clients, which wraps around."""


def fixed_point(
    values: Float[Array, "*n"], draws: Float[Array, "*n"], clip: Scalar, levels: int
) -> UInt[Array, "*n"]:
    """Numbers as multiples of ``2 clip / levels`` above ``-clip``, rounded by chance.

        t = (clip(v, -c, c) + c) levels / (2 c);  ceil(t), or one less where u < ceil(t) - t

    Args:
      values: what does not lie within the clip is cut.
      draws: u, uniform in [0, 1).
      clip: c.
      levels: of them.

    Example:
      >>> fixed_point(jnp.array([-8.0, 0.0, 9.0]), jnp.zeros(3), 8.0, 4)
      Array([0, 2, 4], dtype=uint32)
    """
    exact = (jnp.clip(values, -clip, clip) + clip) * (levels / (2 * clip))
    above = jnp.ceil(exact)
    return (above - (draws < above - exact).astype(exact.dtype)).astype(jnp.uint32)


def decoded(
    summed: UInt[Array, "*n"], count: Float[Array, ""], clip: Scalar, levels: int
) -> Float[Array, "*n"]:
    """The sum of ``count`` clients' numbers.

    Example:
      >>> decoded(jnp.array([4], jnp.uint32), jnp.float32(2.0), 8.0, 4)
      Array([0.], dtype=float32)
    """
    wide = jax.dtypes.canonicalize_dtype(float)
    return summed.astype(wide) * (2 * clip / levels) - (count * clip).astype(wide)


def key_bytes(peers: Array) -> tuple[Array, Array]:
    """Bytes of keys and of their shares that ONE client sends and receives in a round.

    It sends two public keys of 32 bytes; for each peer an encrypted pair of shares of 32 bytes
    (with a nonce and a tag, 92) and, to unmask, one share of 32. It receives keys and pair of each.

    Args:
      peers: clients with which it shares masks.

    Source: Bonawitz et al., CCS 2017, with X25519 keys and AES-GCM.

    Example:
      >>> [count.item() for count in key_bytes(jnp.int32(3))]
      [436, 468]
    """
    return 2 * _PUBLIC_KEY + peers * (_PAIR + _SHARE), peers * (2 * _PUBLIC_KEY + _PAIR)
