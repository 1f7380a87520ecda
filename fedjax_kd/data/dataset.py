"""A data set on the host: checked NumPy arrays, in the dtypes that the project expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedjax_kd.errors import InputError, InputTypeError

_INPUT_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.float32))
_INT32 = np.iinfo(np.int32)


class Examples(NamedTuple):
    """Rows of one part of a data set.

    ``x`` is ``[N, ...]``: uint8 (images), float32 or int32 (tokens). ``y`` is int32, ``[N]`` or,
    for sequences, ``[N, T]`` with -1 at positions that no loss may count. ``columns`` holds
    further values a row, ``[N]`` each, such as ``client``, ``domain`` or ``coarse``.
    """

    x: np.ndarray
    y: np.ndarray
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Training and test examples of one classification task, checked when built.

    The arrays must have the dtypes that `Examples` names; `from_arrays` converts other ones.

    Args:
      name: what reports call it.
      train: the rows that partitioners give to clients.
      test: the rows of the global evaluation, of the same example shape.
      num_classes: L; labels are 0..L-1.

    Raises:
      TypeError: if an array has another dtype.
      ValueError: if lengths, shapes or values do not fit together; the message names the part.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int

    def __post_init__(self) -> None:
        for part, examples in (("train", self.train), ("test", self.test)):
            _check_lengths(part, examples)
            _check_input(part, examples.x)
            _check_labels(part, examples.y, self.num_classes)
        for axis, train, test in (
            ("x", self.train.x, self.test.x),
            ("y", self.train.y, self.test.y),
        ):
            if train.shape[1:] != test.shape[1:]:
                raise InputError(
                    f"one example of train_{axis} has shape {train.shape[1:]}, one of test_{axis} "
                    f"{test.shape[1:]}, but must be the same: reshape, crop or pad one of them."
                )


def _check_lengths(part: str, examples: Examples) -> None:
    """Every array of a part has one entry a row, and there is at least one row."""
    x, y, columns = examples
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(y) == 0:
        raise InputError(
            f"{part}_x has shape {x.shape} and {part}_y {y.shape}, but both need at least one row "
            "on their first axis: check how the arrays were cut."
        )
    if len(x) != len(y):
        raise InputError(
            f"{part}_x has {len(x)} rows and {part}_y {len(y)}, but every example needs one label: "
            "cut both in the same way."
        )
    for name, column in columns.items():
        if column.shape != (len(x),) or column.dtype == object:
            raise InputError(
                f"column {part}_{name} has shape {column.shape} and dtype {column.dtype}, but "
                f"needs one number or string a row, shape ({len(x)},): give one value an example."
            )


def _check_input(part: str, x: np.ndarray) -> None:
    """Inputs are bytes, tokens or finite floats."""
    if x.dtype not in _INPUT_DTYPES:
        raise InputTypeError(
            f"{part}_x is {x.dtype}, but must be uint8, int32 or float32: build the data set with "
            "from_arrays, which converts."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.argmax(~np.isfinite(x.reshape(len(x), -1)).all(axis=1)))
        raise InputError(
            f"{part}_x holds a NaN or an infinity, first in row {bad}, but must be finite: remove "
            "or fill such rows."
        )


def _check_labels(part: str, y: np.ndarray, num_classes: int) -> None:
    """Labels are int32 in 0..L-1; -1 is allowed in sequences only."""
    if y.dtype != np.int32:
        raise InputTypeError(
            f"{part}_y is {y.dtype}, but labels must be int32: build the data set with "
            "from_arrays, which converts integers; turn one-hot rows into numbers by argmax."
        )
    lowest = -1 if y.ndim > 1 else 0
    if int(y.min()) < lowest or int(y.max()) >= num_classes:
        raise InputError(
            f"{part}_y lies in {y.min()}..{y.max()}, but num_classes={num_classes} allows "
            f"{lowest}..{num_classes - 1}: renumber the labels from 0 or raise num_classes."
        )


def _inputs(part: str, x: np.ndarray) -> np.ndarray:
    """Inputs in one of the three dtypes; bytes stay bytes."""
    if x.dtype.kind == "b":
        return x.astype(np.uint8)
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return x.astype(np.float32, copy=False)
    if x.dtype == np.uint8:
        return x
    return _integers(f"{part}_x", x)


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    """Integers as int32, if they are integers and fit."""
    if values.dtype.kind not in "iu":
        raise InputTypeError(
            f"{name} is {values.dtype}, but must hold integers"
            + (" or floats" if name.endswith("_x") else "")
            + ": convert it to numbers first."
        )
    if values.size and (values.min() < _INT32.min or values.max() > _INT32.max):
        raise InputError(
            f"{name} lies in {values.min()}..{values.max()}, but must fit 32 bits: renumber it."
        )
    return values.astype(np.int32, copy=False)


def _examples(
    part: str, x: np.ndarray, y: np.ndarray, columns: Mapping[str, np.ndarray] | None
) -> Examples:
    """Converted arrays of one part."""
    return Examples(
        _inputs(part, np.asarray(x)),
        _integers(f"{part}_y", np.asarray(y)),
        {name: np.asarray(column) for name, column in (columns or {}).items()},
    )


def from_arrays(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
    train_columns: Mapping[str, np.ndarray] | None = None,
    test_columns: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """A checked `Dataset` from arrays of any integer or float dtype.

    Bytes stay bytes (uint8), other integer inputs become int32, floats float32, labels int32.

    Args:
      train_x: inputs ``[N, ...]``.
      train_y: labels ``[N]``, or ``[N, T]`` for sequences, where -1 marks positions to ignore.
      test_x: inputs of the test examples, of the same example shape.
      test_y: labels of the test examples.
      name: what reports call it.
      num_classes: L; 1 + the largest label of both parts if None.
      train_columns: further values a training row, ``[N]`` each, by name.
      test_columns: likewise for the test rows.

    Raises:
      TypeError: if labels are not integers, or inputs are neither integers nor floats.
      ValueError: if lengths, shapes or values do not fit together.

    Example:
      >>> data = from_arrays(np.zeros((6, 2)), np.arange(6) % 3, np.ones((3, 2)), np.arange(3))
      >>> data.num_classes, str(data.train.x.dtype), str(data.train.y.dtype)
      (3, 'float32', 'int32')
    """
    train = _examples("train", train_x, train_y, train_columns)
    test = _examples("test", test_x, test_y, test_columns)
    if num_classes is None:
        num_classes = 1 + max(int(y.max(initial=0)) for y in (train.y, test.y))
    return Dataset(name, train, test, num_classes)
