"""Count sketches: tables of fixed size from which the large entries of a vector can be told."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.components.sparsity import largest
from fedjax_kd.core import Key, Scalar

SketchVariant = Literal["paper", "zeroing"]


class Hashes(NamedTuple):
    """Where each of n entries is added in each row of a table, and with which sign."""

    buckets: Int[Array, "R n"]
    signs: Float[Array, "R n"]


def hashes_of(key: Key, count: int, rows: int, columns: int) -> Hashes:
    """Random hashes; each entry has a bucket of its own if there are as many columns as entries.

    Example:
      >>> hashes_of(jax.random.key(0), 3, rows=1, columns=3).buckets
      Array([[0, 1, 2]], dtype=int32)
    """
    where, which = jax.random.split(key)
    signs = jax.random.rademacher(which, (rows, count), jnp.float32)
    if columns >= count:
        return Hashes(jnp.tile(jnp.arange(count, dtype=jnp.int32), (rows, 1)), signs)
    return Hashes(jax.random.randint(where, (rows, count), 0, columns, jnp.int32), signs)


def sketch(vector: Float[Array, " n"], hashes: Hashes, columns: int) -> Float[Array, "R C"]:
    """The sums of the signed entries of each bucket; linear in the vector.

        S(v)[a, b] = sum of sign[a, j] v[j] over the j with bucket[a, j] = b

    Example:
      >>> hashes = Hashes(jnp.array([[0, 1, 0]]), jnp.array([[1.0, -1.0, -1.0]]))
      >>> sketch(jnp.array([5.0, 2.0, 1.0]), hashes, 2)
      Array([[ 4., -2.]], dtype=float32)
    """
    signed = hashes.signs.astype(vector.dtype) * vector[None]
    return jax.vmap(lambda row, at: jax.ops.segment_sum(row, at, columns))(signed, hashes.buckets)


def estimate(table: Float[Array, "R C"], hashes: Hashes) -> Float[Array, " n"]:
    """The median over rows of what each entry's buckets hold, with its sign.

    Example:
      >>> hashes = Hashes(jnp.array([[0, 1, 0]]), jnp.array([[1.0, -1.0, -1.0]]))
      >>> estimate(jnp.array([[4.0, -2.0]]), hashes)
      Array([ 4.,  2., -4.], dtype=float32)
    """
    told = jnp.take_along_axis(table, hashes.buckets, axis=1)
    return jnp.median(told * hashes.signs.astype(table.dtype), axis=0)


class Tables(NamedTuple):
    """What FetchSGD's server remembers, in the space of sketches."""

    momentum: Float[Array, "R C"]
    error: Float[Array, "R C"]


def remembered(
    hashes: Hashes,
    tables: Tables,
    table: Float[Array, "R C"],
    *,
    keep: Scalar,
    momentum: Scalar,
    variant: SketchVariant = "paper",
) -> tuple[Float[Array, " n"], Tables]:
    """What the server moves by after it received a sketch, and what it then remembers.

        u = rho u + table;  E = E + u;  update = the largest entries of the estimate of E
        E = E - S(update)             or, "zeroing", buckets of the update become 0 in E and u

    Args:
      hashes: of the sketches.
      tables: u and E.
      table: the mean of the clients' sketches.
      keep: share of the entries that move.
      momentum: rho.
      variant: which of the two.
    """
    moving = momentum * tables.momentum + table
    error = tables.error + moving
    change = largest(estimate(error, hashes), keep, ties="first")
    taken = sketch(change, hashes, table.shape[1])
    if variant == "paper":
        return change, Tables(moving, error - taken)
    untouched = (taken == 0).astype(error.dtype)
    return change, Tables(moving * untouched, error * untouched)
