"""Checks of a data set's arrays: rows, dtypes, and whether its two parts are alike."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.data.arrays import named_arrays
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.problems import Problem

_FAR = 30.0  # times that deviations of training and test rows may differ
_LEAST_ROWS, _LOOKED_AT = 10, 1000  # rows that tell a deviation, and those that are looked at
_INPUT_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.float32))


def check_rows(part: str, x: PyTree, y: PyTree, columns: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError unless every array of a part has one entry a row, and there is a row."""
    inputs = named_arrays(f"{part}_x", x)
    targets = named_arrays(f"{part}_y", y)
    if not inputs or any(a.ndim == 0 or len(a) == 0 for _, a in [*inputs, *targets]):
        shapes = " and ".join(f"{name} {a.shape}" for name, a in [*inputs, *targets])
        raise InputError(
            f"The shapes are {shapes or f'{part}_x without an array'}, but every array needs at "
            "least one row on its first axis: check how the arrays were cut."
        )
    first, rows = inputs[0][0], len(inputs[0][1])
    for name, a in [*inputs, *targets]:
        if len(a) != rows:
            raise InputError(
                f"{first} has {rows} rows and {name} {len(a)}, but every example needs one "
                f"{'label' if name == f'{part}_y' else 'row of each'}: cut both in the same way."
            )
    for name, column in columns.items():
        if column.shape != (rows,) or column.dtype == object:
            raise InputError(
                f"column {part}_{name} has shape {column.shape} and dtype {column.dtype}, but "
                f"needs one number or string a row, shape ({rows},): give one value an example."
            )


def check_input(name: str, x: NDArray[Any]) -> None:
    """Raises unless inputs are bytes, tokens or finite floats."""
    if x.dtype not in _INPUT_DTYPES:
        raise InputTypeError(
            f"{name} is {x.dtype}, but must be uint8, int32 or float32: build the data set with "
            "from_arrays, which converts."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.argmax(~np.isfinite(x.reshape(len(x), -1)).all(axis=1)))
        raise InputError(
            f"{name} holds a NaN or an infinity, first in row {bad}, but must be finite: remove "
            "or fill such rows."
        )


def check_one_array(name: str, y: PyTree, problem: Problem) -> None:
    """Raises TypeError if a problem that has one array of targets is given none or several."""
    if isinstance(y, np.ndarray) or problem.any_targets:
        return
    held = len(jax.tree.leaves(y))
    raise InputTypeError(
        f"{name} holds {held or 'no'} arrays, but the problem {problem.name!r} has one array of "
        f"targets: {problem.says}. Give one, or say problem='none' (--problem none) and train with "
        "a loss of your own."
    )


def check_targets(name: str, y: PyTree, problem: Problem) -> None:
    """Raises unless targets are stored as their problem has them."""
    check_one_array(name, y, problem)
    stored = dict(named_arrays(name, problem.stored(name, y)))
    for own, given in named_arrays(name, y):
        kept = stored[own]
        if (given.dtype, given.shape) != (kept.dtype, kept.shape):
            raise InputTypeError(
                f"{own} is {given.dtype}{list(given.shape)}, but as {problem.says} it must be "
                f"{kept.dtype}{list(kept.shape)}: build the data set with from_arrays, which "
                "converts."
            )


def check_size(problem: Problem, targets: Sequence[PyTree], size: int) -> None:
    """Raises ValueError if targets do not fit outputs of a size."""
    needed = problem.size(targets)
    if problem.any_targets or needed == size or (problem.are_classes and needed < size):
        return
    if problem.are_classes:
        held = np.concatenate([np.ravel(y) for y in targets])
        raise InputError(
            f"Targets lie in {held.min()}..{held.max()}, but num_classes={size} allows "
            f"0..{size - 1}: renumber the labels from 0 or raise num_classes."
        )
    raise InputError(
        f"num_classes is {size}, but the targets have {needed} columns ({problem.says}): leave it "
        "out."
    )


def check_alike(name: str, other: str, first: PyTree, second: PyTree) -> None:
    """Raises unless two trees have the same arrays: as many, of the same kind and example shape.

    Kinds are bytes, booleans, whole numbers and floats: what is trained on one of them and tested
    on another one, such as pixels in 0..255 and in [0, 1], was scaled by mistake.
    """
    if [n for n, _ in named_arrays("", first)] != [n for n, _ in named_arrays("", second)]:
        held = [
            ", ".join(n for n, _ in named_arrays(*pair)) or "no array"
            for pair in ((name, first), (other, second))
        ]
        raise InputError(
            f"There is {held[0]}, but {held[1]}: both parts must hold the same arrays."
        )
    pairs = zip(named_arrays(name, first), named_arrays(other, second), strict=True)
    for (one, a), (two, b) in pairs:
        if a.shape[1:] != b.shape[1:]:
            raise InputError(
                f"one example of {one} has shape {a.shape[1:]}, one of {two} {b.shape[1:]}, but "
                "must be the same: reshape, crop or pad one of them."
            )
        if _kind(a) != _kind(b):
            raise InputTypeError(
                f"{one} is {a.dtype} and {two} {b.dtype}, but a model must be tested on what it "
                "was trained on: convert and scale both in the same way."
            )


def warn_of_scale(train_x: PyTree, test_x: PyTree) -> None:
    """Tells of numbers that are far larger or smaller in the test than in the training rows."""
    pairs = zip(named_arrays("train_x", train_x), named_arrays("test_x", test_x), strict=True)
    for (one, a), (two, b) in pairs:
        spreads = [float(np.std(part[:_LOOKED_AT], dtype=np.float64)) for part in (a, b)]
        enough = min(len(a), len(b)) >= _LEAST_ROWS and min(spreads) > 0
        if enough and not 1 / _FAR < spreads[0] / spreads[1] < _FAR:
            warnings.warn(
                f"The deviation of {one} is {spreads[0]:.3g}, and of {two} {spreads[1]:.3g}: were "
                "both scaled in the same way?",
                UserWarning,
                stacklevel=3,
            )


def check_columns_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raises TypeError if a column holds words in one part and numbers in the other one."""
    for name in first.keys() & second.keys():
        a, b = first[name].dtype, second[name].dtype
        if (a.kind in "US") != (b.kind in "US"):
            raise InputTypeError(
                f"column train_{name} is {a} and test_{name} {b}, so that no value of one occurs "
                "in the other: convert one of them."
            )


def _kind(a: NDArray[Any]) -> str:
    if a.dtype == np.uint8:
        return "bytes"
    if jnp.issubdtype(a.dtype, jnp.floating):
        return "floats"
    return "whole numbers" if a.dtype.kind in "iu" else a.dtype.kind
