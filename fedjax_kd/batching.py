"""Which of its examples a client sees in which local step, computed on the fly.

An epoch is a random permutation of ``range(size)``. Sorting random numbers would need a fixed
length, so that every client would pay for the largest one. Instead each position is sent through a
keyed bijection of ``range(size)``, the swap-or-not shuffle: nothing is stored, nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from fedjax_kd.core import Batch, Data, PyTree
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.prng import mix

LastBatch = Literal["partial", "drop", "wrap"]
Carry = TypeVar("Carry")

# Permutations of 4 and 5 elements pass a chi-squared test of uniformity from 12 rounds on.
_SHUFFLE_ROUNDS = 24
# Wholly unrolled, XLA's CPU compiler (seen in jax 0.12) copies each round into every use of its
# value, so that the time to compile 24 of them explodes. For others they are one kernel then.
_UNROLLED_ON_CPU = 4


def shuffled(
    seed: UInt32[Array, " *shape"], positions: Int[Array, " B"], size: Int[Array, ""]
) -> Int[Array, " B"]:
    """Where a random permutation of ``range(size)`` sends each position.

    Args:
      seed: 32 random bits that choose the permutation; a scalar, or one for each position.
      positions: numbers in ``range(size)``.
      size: how many elements are permuted, >= 1; may be traced.

    Source: Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012.

    Example:
      >>> sorted(shuffled(jnp.uint32(7), jnp.arange(5), jnp.int32(5)).tolist())
      [0, 1, 2, 3, 4]
    """
    u32 = jnp.uint32
    size, place = size.astype(u32), positions.astype(u32)

    def swap_or_not(turn: Array, place: Array) -> Array:
        turn = jnp.asarray(turn, u32)  # without jit it is a Python number
        secret = mix(seed + (u32(2) * turn + u32(1)) * u32(0x9E3779B9))
        pivot = secret % size
        partner = jnp.where(place > pivot, pivot + size - place, pivot - place)
        coin = mix(jnp.maximum(place, partner) ^ (secret * u32(0x85EBCA6B) + turn))
        return jnp.where((coin & u32(1)).astype(bool), partner, place)

    def all_turns(place: Array, unroll: int) -> Array:
        return jax.lax.fori_loop(0, _SHUFFLE_ROUNDS, swap_or_not, place, unroll=unroll)

    place = jax.lax.platform_dependent(
        jnp.broadcast_to(place, jnp.broadcast_shapes(place.shape, seed.shape)),
        cpu=partial(all_turns, unroll=_UNROLLED_ON_CPU),
        default=partial(all_turns, unroll=_SHUFFLE_ROUNDS),
    )
    return place.astype(jnp.int32)


def steps_per_epochs(
    size: Int[Array, ""], batch_size: int, epochs: int, last_batch: LastBatch
) -> Int[Array, ""]:
    """Local steps of ``epochs`` passes over ``size`` examples; NumPy's arrays will do too."""
    if last_batch == "wrap":
        return -(-size * epochs // batch_size)
    if last_batch == "drop":  # a client smaller than one batch would never train
        alone = (size > 0) & (size < batch_size)
        return epochs * (size // batch_size + alone.astype(size.dtype))
    return epochs * -(-size // batch_size)


def turns(count: Callable[[Any], Any], data: Data) -> Int[Array, ""] | int:
    """How often a loop over a client's examples turns; a number if it is the same for all clients.

    Args:
      count: examples -> turns, of NumPy's and JAX's integers alike; more examples are never fewer
        turns.
      data: what the client holds.

    Example:
      >>> from fedjax_kd.core import SizeRange
      >>> data = Data.all_of(jnp.zeros(15))._replace(sizes=SizeRange(14, 15))
      >>> turns(lambda size: -(-size // 10), data)
      2
    """
    if data.sizes is not None:
        least, most = (int(count(np.int64(n))) for n in (data.sizes.smallest, data.sizes.largest))
        if least == most:
            return least
    return count(data.size)


def in_time(steps: Int[Array, ""] | int, data: Data) -> Int[Array, ""] | int:
    """So many local steps, or as many as the client has time for.

    Example:
      >>> whole = Data.all_of(jnp.zeros(3))
      >>> in_time(5, whole), in_time(5, whole._replace(most_steps=2)).item()
      (5, 2)
    """
    return steps if data.most_steps is None else jnp.minimum(steps, data.most_steps)


def draw(
    seed: UInt32[Array, ""],
    step: Int[Array, ""],
    size: Int[Array, ""],
    batch_size: int,
    last_batch: LastBatch,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Positions and mask of the batch of local step ``step``.

    Each epoch has its own permutation. What happens at its end is ``last_batch``:

    * ``"partial"``: the last batch is smaller (its mask holds zeros; the filling repeats examples).
    * ``"drop"``: the incomplete batch is left out, unless the client has no other.
    * ``"wrap"``: it is filled with the first examples of the next epoch.
    """
    size = jnp.maximum(size, 1)
    within = jnp.arange(batch_size, dtype=jnp.int32)
    if last_batch == "wrap":
        count = step * batch_size + within
        epoch, place = count // size, count % size
        mask = jnp.ones(batch_size, jnp.float32)
    else:
        each = steps_per_epochs(size, batch_size, 1, last_batch)
        epoch, place = step // each, (step % each) * batch_size + within
        mask = (place < size).astype(jnp.float32)
        place = place % size
    epoch_seed = mix(seed + epoch.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
    return shuffled(epoch_seed, place, size), mask


def over_rows(
    data: Data, at_once: int, add: Callable[[Carry, Batch, Array], Carry], start: Carry
) -> Carry:
    """What ``add`` makes of all examples of a client, each taken once, some at a time.

    Args:
      data: what the client holds.
      at_once: examples in a piece; the last one is filled up with examples whose mask is 0.
      add: ``(carry, batch, number of the piece) -> carry``.
      start: the first carry.

    Example:
      >>> numbers = jnp.arange(5.0)
      >>> over_rows(Data.all_of(numbers), 2, lambda s, b, _: s + (b.x * b.mask).sum(), 0.0)
      Array(10., dtype=float32)
    """

    def piece(i: Array, carry: Carry) -> Carry:
        positions = i * at_once + jnp.arange(at_once, dtype=jnp.int32)
        mask = (positions < data.size).astype(jnp.float32)
        return add(carry, data.take(positions % jnp.maximum(data.size, 1), mask), i)

    return jax.lax.fori_loop(0, turns(lambda size: -(-size // at_once), data), piece, start)


@checks_options
def in_pieces(
    function: Callable[[PyTree], Array], rows: PyTree, at_once: int
) -> Float[Array, "P ..."]:
    """A function of many rows ``[P, ...]``, in memory of a few; what it gives has rows, too.

    Args:
      function: of ``at_once`` rows, to be looked at one by one: the last piece repeats a row.
      rows: arrays of at least one row.
      at_once: rows in a piece, >= 1.

    Example:
      >>> in_pieces(lambda x: 2 * x, jnp.arange(5), 2)
      Array([0, 2, 4, 6, 8], dtype=int32)
    """
    count = len(jax.tree.leaves(rows)[0])
    length = min(at_once, count)

    def piece(i: Array) -> Array:
        positions = jnp.minimum(i * length + jnp.arange(length, dtype=jnp.int32), count - 1)
        return function(jax.tree.map(lambda a: a[positions], rows))

    values = jax.lax.map(piece, jnp.arange(-(-count // length), dtype=jnp.int32))
    return values.reshape(-1, *values.shape[2:])[:count]


def check_last_batch(last_batch: str) -> None:
    """Raises ValueError if there is no such way to end an epoch."""
    check_choice("last_batch", last_batch, LastBatch)
