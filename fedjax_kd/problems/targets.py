"""Checks of targets on the host, and the dtypes in which they are stored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError, InputTypeError

_INT32 = np.iinfo(np.int32)


def any_numbers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bytes as they are, booleans as bytes, floats as float32, other whole numbers as int32.

    Raises:
      TypeError: if they are no numbers.
      ValueError: if one is not finite, or does not fit 32 bits.

    Example:
      >>> [str(any_numbers("x", np.ones(2, kind)).dtype) for kind in ("bool", "int64", "float64")]
      ['uint8', 'int32', 'float32']
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    # JAX's short floats are no floats to NumPy.
    if jnp.issubdtype(values.dtype, jnp.floating):
        return _finite(name, values)
    return whole_numbers(name, values, "numbers")


def anything(name: str, y: PyTree) -> PyTree:
    """Arrays of numbers in any tree, or nothing at all: ``()``.

    Raises:
      TypeError: if one holds no numbers.
      ValueError: if a number is not finite, or does not fit 32 bits.
    """
    path_of = jax.tree_util.keystr
    return jax.tree_util.tree_map_with_path(lambda path, a: any_numbers(name + path_of(path), a), y)


def class_if_any(y: PyTree) -> NDArray[Any] | None:
    """The targets, if they are one whole number an example."""
    one_each = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iu"
    return y if one_each else None


def whole_numbers(
    name: str, values: NDArray[Any], wanted: str = "whole numbers"
) -> NDArray[np.int32]:
    """Integers or booleans as int32.

    Raises:
      TypeError: if they are something else.
      ValueError: if they do not fit.

    Example:
      >>> whole_numbers("train_y", np.array([True, False]))
      array([1, 0], dtype=int32)
    """
    if values.dtype.kind not in "iub":
        raise InputTypeError(f"{name} is {values.dtype}, but must hold {wanted}. {_hint(values)}")
    if values.size and (values.min() < _INT32.min or values.max() > _INT32.max):
        raise InputError(
            f"{name} lies in {values.min()}..{values.max()}, but must fit 32 bits: renumber it."
        )
    return values.astype(np.int32, copy=False)


def _hint(values: NDArray[Any]) -> str:
    """What to do with values that are no whole numbers."""
    if values.dtype.kind == "f":
        return (
            "If they are values to predict, say so by problem='regression'; if they are classes, "
            "convert them by .astype(int)."
        )
    if values.dtype.kind in "US":
        return (
            "Number the words: by relabel=True (--relabel) if they are classes, or by "
            "numpy.unique(words, return_inverse=True)[1]."
        )
    if values.dtype.kind == "O":
        return "Stack the entries into one array of numbers: rows of different lengths cannot be."
    return "Convert it to numbers."


def classes(name: str, y: NDArray[Any]) -> NDArray[np.int32]:
    """One class an example, ``[N]``, 0 or more.

    Raises:
      TypeError: if they are no integers.
      ValueError: if there is not one an example, or one is negative.
    """
    y = whole_numbers(name, y)
    if y.ndim != 1:
        raise InputError(
            f"{name} has shape {y.shape}, but classification has one class an example, (N,). "
            + _one_a_row(y)
        )
    return _from(name, y, 0)


def _one_a_row(y: NDArray[Any]) -> str:
    if y.ndim == 2 and y.shape[1] == 1:
        return "Take y[:, 0]."
    if y.ndim == 2 and is_one_hot(y):
        return "Turn one-hot rows into numbers by y.argmax(axis=1)."
    return (
        "Say which other problem it is: 'tokens' (a class a position), 'segmentation' (a class a "
        "pixel) or 'multilabel' (zeros and ones)."
    )


def is_one_hot(y: NDArray[Any]) -> bool:
    """Whether rows ``[N, L]`` of zeros hold a single one each, in several columns.

    Example:
      >>> is_one_hot(np.eye(3, dtype=int)), is_one_hot(np.ones((3, 3), int))
      (True, False)
    """
    ones = (y == 1).sum(axis=1)
    return y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() and (ones == 1).all())


def _from(name: str, y: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    if y.size and int(y.min()) < least:
        unknown = " (-1 for no label)" if least == -1 else ""
        raise InputError(
            f"{name} holds {int(y.min())}, but classes are numbered from 0{unknown}: renumber the "
            "labels."
        )
    return y


def labels_of(ndim: int, one: str) -> Any:
    """A check of a class for each of several places of an example, -1 where there is none.

    Args:
      ndim: axes of all targets together.
      one: what a place is.
    """

    def check(name: str, y: NDArray[Any]) -> NDArray[np.int32]:
        y = whole_numbers(name, y)
        if y.ndim != ndim:
            axes = ", ".join(["N", *"THWD"[ndim == 3 :][: ndim - 1]])
            raise InputError(f"{name} has shape {y.shape}, but must have a class {one}, ({axes}).")
        return _from(name, y, -1)

    return check


def yes_or_no(name: str, y: NDArray[Any]) -> NDArray[np.int32]:
    """Labels that hold (1), do not (0) or are unknown (-1), ``[N, L]``.

    Raises:
      TypeError: if they are no whole numbers, also as floats.
      ValueError: if they are others than these.
    """
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        y = y.astype(np.int32)
    y = whole_numbers(name, y)
    if y.ndim != 2 or (y.size and not (int(y.min()) >= -1 and int(y.max()) <= 1)):
        low, high = (int(y.min()), int(y.max())) if y.size else (0, 0)
        raise InputError(
            f"{name} has shape {y.shape} and lies in {low}..{high}, but several labels an example "
            "are zeros and ones, (N, L), -1 where one is unknown."
        )
    if (y == -1).any() and not (y == 0).any():
        raise InputError(
            f"{name} holds -1 and no 0, but -1 means that nobody knows whether a label holds: "
            "write 0 where it does not."
        )
    return y


def numbers(name: str, y: NDArray[Any]) -> NDArray[np.float32]:
    """Finite values as float32, ``[N, D]``; one an example may be ``[N]``.

    Raises:
      TypeError: if they are no numbers.
      ValueError: if one is not finite.
    """
    if y.dtype.kind not in "iufb":
        raise InputTypeError(f"{name} is {y.dtype}, but values to predict are numbers. {_hint(y)}")
    values = _finite(name, y)
    return values[:, None] if values.ndim == 1 else values


def _finite(name: str, given: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = given.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        bad = int(np.argmax(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
        raise InputError(
            f"{name} holds a NaN or an infinity, first in row {bad}, but must be finite: remove "
            "or fill such rows."
        )
    return values
