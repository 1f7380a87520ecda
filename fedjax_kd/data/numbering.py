"""How classes are numbered: gaps that nobody means, and numbering anew."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.problems import RETRIEVAL, TOKENS, Problem

_NAMED = 6  # classes that a message names


def check_numbering(problem: Problem, train_y: PyTree, test_y: PyTree) -> None:
    """Looks for classes without a row, where nobody said how many classes there are.

    A vocabulary has symbols that do not occur, so tokens are not looked at. Elsewhere a gap comes
    from the numbering alone if class 0 is empty, or half of all classes. Other empty classes, and
    those that training never shows (but for identities, which are meant to be new), are warned of.

    Raises:
      ValueError: if there is such a gap; the message names the empty classes.
    """
    if not problem.are_classes or problem is TOKENS:
        return
    seen = _classes_of(train_y)
    held = np.union1d(seen, _classes_of(test_y))
    count = 1 + int(held.max(initial=-1))
    if count > len(held):
        empty = _shown(np.setdiff1d(np.arange(min(count, len(held) + _NAMED + 1)), held))
        if held[0] != 0 or count >= 2 * len(held):
            unknown = "" if problem.one_class_each else " (-1 marks places without a label)"
            raise InputError(
                f"Labels lie in {held[0]}..{held[-1]}, but only {len(held)} of {count} classes "
                f"have a row; without one are {empty}. Number them from 0{unknown}, or have them "
                f"numbered by relabel=True (--relabel); if they are meant, say "
                f"num_classes={count}."
            )
        _warn(f"No row has class {empty}: models get outputs for them that nothing trains.")
    unseen = np.setdiff1d(held, seen)
    if len(unseen) and problem is not RETRIEVAL:
        _warn(f"No training row has class {_shown(unseen)}, but test rows have.")


def renumbered(parts: Sequence[PyTree]) -> tuple[list[NDArray[Any]], tuple[str, ...]]:
    """Classes of all parts numbered 0, 1, ... in sorted order, and what they were.

    Of several classes an example -1, which is no label, stays as it is.

    Raises:
      TypeError: if they are neither numbers nor words, or both.

    Example:
      >>> renumbered([np.array([200, 100]), np.array([300])])
      ([array([1, 0]), array([2])], ('100', '200', '300'))
    """
    arrays = [_plain(part) for part in parts]
    if len({a.dtype.kind in "US" for a in arrays}) > 1:
        raise InputTypeError(
            f"Classes are {' in one part and '.join(str(a.dtype) for a in arrays)} in the other: "
            "convert one of them, so that equal classes are equal."
        )
    flat = np.concatenate([a.ravel() for a in arrays])
    several = arrays[0].ndim > 1 and flat.dtype.kind not in "US"
    kinds = np.unique(flat[flat != -1] if several else flat)
    numbers = [np.searchsorted(kinds, a) for a in arrays]
    if several:
        numbers = [np.where(a == -1, -1, n) for a, n in zip(arrays, numbers, strict=True)]
    return numbers, tuple(str(kind) for kind in kinds.tolist())


def _plain(y: PyTree) -> NDArray[Any]:
    """Classes as numbers or as words."""
    if isinstance(y, np.ndarray):
        if y.dtype == object and all(isinstance(entry, str) for entry in y.ravel()):
            return y.astype(str)
        if y.dtype.kind in "iubUS" or (y.dtype.kind == "f" and np.isfinite(y).all()):
            return y
    kind = y.dtype if isinstance(y, np.ndarray) else type(y).__name__
    raise InputTypeError(
        f"relabel numbers classes anew, but the targets are {kind}: give one array of numbers or "
        "words."
    )


def _classes_of(y: PyTree) -> NDArray[np.int64]:
    classes = np.unique(y)
    return classes[classes >= 0]


def _shown(classes: NDArray[np.int64]) -> str:
    more = ", ..." if len(classes) > _NAMED else ""
    return ", ".join(map(str, classes[:_NAMED].tolist())) + more


def _warn(message: str) -> None:
    warnings.warn(f"{message} Give num_classes if this is meant.", UserWarning, stacklevel=4)
