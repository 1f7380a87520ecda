"""Trees of host arrays that have a row an example: one array, or several in dicts and tuples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree


def as_arrays(given: Any) -> PyTree:
    """The same tree with NumPy arrays for leaves; lists, and tuples of numbers, are one array.

    Example:
      >>> as_arrays({"image": [[1, 2], [3, 4]], "age": (30, 40)})["age"].shape
      (2,)
    """
    return jax.tree.map(np.asarray, given, is_leaf=lambda node: not _is_tree(node))


def _is_tree(node: Any) -> bool:
    return isinstance(node, Mapping) or (
        isinstance(node, tuple) and all(_is_tree(entry) or np.ndim(entry) > 0 for entry in node)
    )


def by_name(function: Callable[[str, NDArray[Any]], Any], name: str, tree: PyTree) -> PyTree:
    """``function`` of each array's name, such as ``train_x['image']``, and of the array."""
    path_of = jax.tree_util.keystr
    return jax.tree_util.tree_map_with_path(lambda path, a: function(name + path_of(path), a), tree)


def named_arrays(name: str, tree: PyTree) -> list[tuple[str, NDArray[Any]]]:
    """Each array with its name.

    Example:
      >>> [name for name, _ in named_arrays("x", (np.zeros(2), np.ones(2)))]
      ['x[0]', 'x[1]']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(name + jax.tree_util.keystr(path), a) for path, a in leaves]


def count_rows(tree: PyTree) -> int:
    """The rows that every array of a tree has; 0 without an array."""
    leaves = jax.tree.leaves(tree)
    return len(leaves[0]) if leaves else 0


def take_rows(tree: PyTree, rows: NDArray[np.int64]) -> PyTree:
    """Some rows of every array."""
    return jax.tree.map(lambda a: a[rows], tree)


def row_shapes(tree: PyTree) -> Any:
    """The shape of one row of each array.

    Example:
      >>> row_shapes(np.zeros((5, 8, 8)))
      (8, 8)
    """
    return jax.tree.map(lambda a: tuple(a.shape[1:]), tree)


def types_shown(tree: PyTree) -> str:
    """Dtypes and shapes of one row, such as ``uint8[8, 8, 1]``.

    Example:
      >>> types_shown({"image": np.zeros((5, 8, 8), np.uint8), "age": np.zeros(5, np.float32)})
      "{'age': float32[], 'image': uint8[8, 8]}"
    """
    shown = jax.tree.map(lambda a: _Shown(f"{a.dtype}{list(a.shape[1:])}"), tree)
    return repr(shown)


class _Shown(str):
    """A text that stands without quotes in the repr of a tree."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
