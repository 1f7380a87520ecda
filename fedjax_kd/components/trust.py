"""How far clients are trusted: by a root gradient of the server, or by how alike they have been."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def trusted_mean(
    uploads: Sequence[Array], present: Float[Array, " K"], root: Sequence[Array]
) -> tuple[list[Array], Float[Array, " K"]]:
    """FLTrust's mean of uploads, and the trust in each of them (Cao et al., 2021).

        t_k = max(0, cos(u_k, g));  u = sum_k t_k (||g|| / ||u_k||) u_k / sum_k t_k

    over all arrays together; zeros if nobody is trusted.

    Args:
      uploads: arrays ``[K, ...]``.
      present: 1 for the clients that count.
      root: g, of the same arrays without the leading axis.

    Source: Cao, Fang, Liu, Gong, NDSS 2021, arXiv:2012.13995.

    Example:
      >>> uploads = [jnp.array([[2.0, 0.0], [-9.0, 0.0]])]
      >>> mean, trust = trusted_mean(uploads, jnp.ones(2), [jnp.array([1.0, 0.0])])
      >>> mean[0].tolist(), trust.tolist()
      ([1.0, 0.0], [1.0, 0.0])
    """
    each = _flat(uploads)
    (own,) = _flat([a[None] for a in root])
    lengths, length = jnp.linalg.norm(each, axis=1), jnp.linalg.norm(own)
    products = jnp.matmul(each, own, precision=jax.lax.Precision.HIGHEST)
    known = (lengths > 0) & (length > 0)
    divisor = jnp.where(known, lengths * length, 1)
    trust = jnp.where(known, jnp.maximum(products / divisor, 0), 0) * present.astype(each.dtype)
    scaled = trust * length / jnp.where(lengths > 0, lengths, 1)
    total = jnp.where(trust.sum() > 0, trust.sum(), 1)
    mean = [jnp.tensordot((scaled / total).astype(a.dtype), a, axes=1) for a in uploads]
    return mean, trust


def sybil_weights(history: Sequence[Array], present: Float[Array, " K"]) -> Float[Array, " K"]:
    """FoolsGold's weights: small for clients whose uploads have been alike (Fung et al., 2020).

        c_ij = cos(H_i, H_j), i != j;  m_i = max_j c_ij
        c_ij = c_ij m_i / m_j   if m_i < m_j               which pardons honest clients
        a_i = 1 - max_j c_ij, clipped to [0, 1] and divided by the largest
        w_i = ln(a_i / (1 - a_i)) + 0.5, clipped to [0, 1]

    Args:
      history: the sum of each client's uploads so far, arrays ``[K, ...]``.
      present: 1 for the clients that count.

    Source: Fung, Yoon, Beschastnikh, RAID 2020, arXiv:1808.04866.

    Example:
      >>> history = [jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])]
      >>> sybil_weights(history, jnp.ones(3)).tolist()
      [1.0, 0.0, 0.0]
    """
    each, there = _flat(history), present > 0
    lengths = jnp.linalg.norm(each, axis=1, keepdims=True)
    unit = each / jnp.where(lengths > 0, lengths, 1)
    others = there[:, None] & there[None] & ~jnp.eye(len(there), dtype=bool)
    cosines = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
    cosines = jnp.where(others, cosines, 0)
    most = cosines.max(1)
    pardoned = jnp.where(
        most[:, None] < most[None], most[:, None] / jnp.where(most > 0, most, 1)[None], 1
    )
    apart = jnp.clip(1 - (cosines * pardoned).max(1), 0, 1) * there.astype(each.dtype)
    apart = apart / jnp.where(apart.max() > 0, apart.max(), 1)
    weight = jnp.log(apart) - jnp.log1p(-apart) + 0.5
    return jnp.clip(weight, 0, 1) * there.astype(each.dtype)


def _flat(arrays: Sequence[Array]) -> Float[Array, "K D"]:
    """Arrays ``[K, ...]`` side by side, of at least 32 bits."""
    rows = [a.reshape(len(a), -1) for a in arrays]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.concatenate(rows, axis=1) + jnp.zeros((), jnp.float32)
