"""Sparse vectors: their largest entries, and the bytes of what is not zero."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.core import Scalar

Positions = Literal["int32", "packed", "bitmap", "smallest"]
Ties = Literal["dropped", "first"]


def largest(vector: Float[Array, " n"], keep: Scalar, ties: Ties = "dropped") -> Float[Array, " n"]:
    """The entries of largest size, zeros in place of the others.

    Example:
      >>> largest(jnp.array([3.0, -4.0, 1.0, 3.0]), 0.5)
      Array([ 0., -4.,  0.,  0.], dtype=float32)
      >>> largest(jnp.array([3.0, -4.0, 1.0, 3.0]), 0.5, ties="first")
      Array([ 3., -4.,  0.,  0.], dtype=float32)
    """
    sizes, dropped = jnp.abs(vector), len(vector) - kept_of(len(vector), keep)
    ordered = jnp.sort(sizes)
    below = ordered.at[jnp.maximum(dropped - 1, 0)].get(mode="clip")
    above = (sizes > below) | (dropped == 0)
    if ties == "first":
        equal, missing = (sizes == below) & ~above, len(vector) - dropped - above.sum()
        above |= equal & (jnp.cumsum(equal) <= missing)
    return jnp.where(above, vector, 0)


def kept_of(count: int, keep: Scalar) -> Any:
    """``ceil(keep * count)``, where rounding may not make one more of a whole number.

    Example:
      >>> kept_of(100, 0.07)
      7
    """
    if isinstance(keep, float | int):
        return math.ceil(keep * count * (1 - 1e-12))
    return jnp.ceil(keep * count * (1 - 2e-7)).astype(jnp.int32)


def sparse_bytes(vector: Float[Array, " n"], positions: Positions = "int32") -> Int[Array, ""]:
    """Bytes of the entries that are not zero, with their positions; at most those of all.

    Example:
      >>> sparse_bytes(jnp.array([0.0, 2.0, 0.0, 0.0, 0.0])), sparse_bytes(jnp.ones(3))
      (Array(8, dtype=int32), Array(12, dtype=int32))
    """
    count, size = jnp.sum(vector != 0, dtype=jnp.int32), len(vector)
    bits = max(size - 1, 1).bit_length()
    costs = {
        "int32": 4 * count,
        "packed": (count * bits + 7) // 8,
        "bitmap": jnp.int32((size + 7) // 8),
    }
    chosen = costs.values() if positions == "smallest" else [costs[positions]]
    least = jnp.stack([jnp.asarray(cost) for cost in chosen]).min()
    return jnp.minimum(count * vector.dtype.itemsize + least, tree.num_bytes(vector))
