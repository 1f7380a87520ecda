"""Many small arrays as few: what a loop keeps of each turn costs a device one write an array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.core import PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Kinds:
    """The structure of a tree, and the shapes and dtypes of its leaves."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]


class Packed(NamedTuple):
    """A tree whose arrays of one dtype lie end to end in one array; loops may stack it."""

    values: dict[str, Array]  # by dtype, [n]
    kinds: _Kinds


def pack_leaves(tree: PyTree) -> Packed:
    """Puts the arrays of a tree into one array a dtype."""
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    kinds = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    values = {
        dtype: jnp.concatenate([leaf.ravel() for leaf in leaves if str(leaf.dtype) == dtype])
        for dtype in sorted({dtype for _, dtype in kinds})
    }
    return Packed(values, _Kinds(structure, kinds))


def unpack_leaves(packed: Packed) -> PyTree:
    """The tree again; leading axes that were put before are those of each leaf.

    Example:
      >>> rows = jax.lax.map(lambda i: pack_leaves({"i": i, "twice": [2 * i, 0.5]}), jnp.arange(3))
      >>> unpack_leaves(rows)["twice"][0]
      Array([0, 2, 4], dtype=int32)
    """
    found: list[Any] = [None] * len(packed.kinds.leaves)
    for dtype, values in packed.values.items():
        mine = [n for n, (_, own) in enumerate(packed.kinds.leaves) if own == dtype]
        shapes = [packed.kinds.leaves[n][0] for n in mine]
        ends = list(accumulate(map(math.prod, shapes)))
        parts = jnp.split(values, ends[:-1], axis=-1)
        for n, shape, part in zip(mine, shapes, parts, strict=True):
            found[n] = part.reshape(*part.shape[:-1], *shape)
    return jax.tree.unflatten(packed.kinds.structure, found)
