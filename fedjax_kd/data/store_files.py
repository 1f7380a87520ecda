"""The files of a client store: their formats, read with checks, and written row by row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedjax_kd.data.inputs import Statistics
from fedjax_kd.errors import InputError
from fedjax_kd.problems import CLASSIFICATION, MULTILABEL, TOKENS, Problem, problem_named

FORMAT = 1
ABOUT = "store.json"

Mapped = np.memmap[Any, Any]
"""An array in a file: what is looked at is read."""

_DTYPES = (np.uint8, np.int32, np.float32)
_KEYS = ("name", "num_classes", "input_shape", "num_clients", "num_rows", "mean", "std")
# What stores of earlier versions do not tell.
_YOUNGER = {"problem": None, "targets": True, "low": None, "high": None}
_LEAST = 1e-6  # deviation that earlier versions wrote for a constant channel


def is_store(folder: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a client store."""
    return (Path(folder) / ABOUT).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """What ``store.json`` says, if it says all of it."""
    if not is_store(folder):
        kind = "holds no" if folder.is_dir() else "does not exist or is no folder, so it has no"
        raise InputError(
            f"{folder} {kind} {ABOUT}, but a client store must have one: write a store with "
            "`fedjax-kd data pack` or fedjax_kd.data.write_store."
        )
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder, f"{ABOUT} is no JSON ({error})") from error
    if not isinstance(about, Mapping) or "format" not in about:
        raise damaged(folder, f"{ABOUT} names no format")
    if about["format"] != FORMAT:
        raise InputError(
            f"The store {folder} has format {about['format']!r}, but this version of fedjax_kd "
            f"reads format {FORMAT}: write it again with this version."
        )
    missing = [key for key in _KEYS if key not in about]
    if missing:
        raise damaged(folder, f"{ABOUT} lacks {', '.join(missing)}")
    return {**_YOUNGER, **about}


def mapped(folder: Path, name: str) -> Mapped:
    """An array of the store, mapped into memory; nothing is unpickled."""
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise damaged(folder, f"{name} cannot be read ({error})") from error
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        raise damaged(folder, f"{name} is no array of rows")
    return array


def check_examples(
    folder: Path, part: str, x: NDArray[Any], y: NDArray[Any] | None, about: Mapping[str, Any]
) -> None:
    """Inputs and targets have the dtypes, shapes and lengths that they must have."""
    known = y is None or y.dtype in _dtypes_of(problem_told(about, y))
    if x.dtype not in _DTYPES or not known:
        kind = "missing" if y is None else y.dtype
        raise damaged(folder, f"{part}x.npy is {x.dtype} and {part}y.npy {kind}")
    if x.ndim == 0 or list(x.shape[1:]) != about["input_shape"]:
        raise damaged(folder, f"{part}x.npy has shape {x.shape}, not inputs {about['input_shape']}")
    if y is not None and (y.ndim == 0 or len(x) != len(y)):
        raise damaged(folder, f"{part}x.npy has {len(x)} rows, {part}y.npy shape {y.shape}")


def check_offsets(folder: Path, offsets: NDArray[Any], about: Mapping[str, Any]) -> None:
    """As many offsets as clients say, from the first row to the last."""
    clients, rows = about["num_clients"], about["num_rows"]
    if offsets.dtype != np.int64 or offsets.shape != (clients + 1,):
        raise damaged(folder, f"offsets.npy is {offsets.dtype}{list(offsets.shape)}")
    if (offsets[0], offsets[-1]) != (0, rows):
        raise damaged(folder, f"offsets.npy runs from {offsets[0]} to {offsets[-1]}")


def damaged(folder: Path, what: str) -> InputError:
    """The error of a store whose files do not fit each other."""
    return InputError(
        f"The store {folder} is damaged: {what}, but its files must be as they were written, and "
        "fit each other: write it again."
    )


def _dtypes_of(problem: Problem) -> tuple[Any, ...]:
    """The dtypes that targets may have."""
    if problem.any_targets:
        return _DTYPES
    return (np.int32,) if problem.are_classes or problem is MULTILABEL else (np.float32,)


def problem_told(about: Mapping[str, Any], y: NDArray[Any] | None) -> Problem:
    """The problem of a store; that of the shape of its targets where it does not tell."""
    if about["problem"] is not None:
        return problem_named(about["problem"])
    return TOKENS if y is not None and y.ndim > 1 else CLASSIFICATION


def statistics_told(about: Mapping[str, Any]) -> Statistics | None:
    """Mean, deviation and range of inputs, as far as the store tells them."""
    told = [about[name] for name in Statistics._fields]
    mean, std, low, high = (None if v is None else np.asarray(v, np.float32) for v in told)
    if mean is None or std is None:
        return None
    return Statistics(mean, np.where(std > _LEAST, std, 0) if low is None else std, low, high)


@contextmanager
def appending(path: Path) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function that appends rows to an npy file, whose header counts them in the end."""
    with open(path, "wb") as file:
        kind: NDArray[Any] | None = None
        count = 0

        def append(rows: NDArray[Any]) -> None:
            nonlocal kind, count
            if kind is None:
                kind = rows[:0].copy()
                _write_header(file, kind, 0)
            file.write(np.ascontiguousarray(rows).data)
            count += len(rows)

        yield append
        if kind is not None:
            file.seek(0)
            _write_header(file, kind, count)
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: BinaryIO, kind: NDArray[Any], count: int) -> None:
    """The header of ``count`` rows. NumPy pads it, so that any count takes the same room."""
    header = npy.header_data_from_array_1_0(kind)
    npy.write_array_header_1_0(file, {**header, "shape": (count, *kind.shape[1:])})
