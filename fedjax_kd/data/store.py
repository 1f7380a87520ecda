"""Client stores: federations on disk, larger than the memory of the device or of the host.

A store is a folder of plain files, every client's rows in one piece:

* ``x.npy``, ``y.npy``: inputs ``[M, ...]`` (uint8, int32 or float32) and labels (int32), client
  after client;
* ``offsets.npy``: int64 ``[C + 1]``; client ``c`` owns the rows ``offsets[c]`` to
  ``offsets[c + 1]``;
* ``test_x.npy``, ``test_y.npy``: the global test set, if there is one;
* ``store.json``: format, name, numbers of classes, clients and rows, the shape of an input, and for
  uint8 inputs mean and deviation of each channel.

`fedjax_kd.data.write_store` writes one, `open_store` opens it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike, NDArray

from fedjax_kd.errors import InputError

FORMAT = 1
ABOUT = "store.json"

Mapped = np.memmap[Any, Any]
"""An array in a file: what is looked at is read."""

_INPUTS = (np.uint8, np.int32, np.float32)
_KEYS = ("name", "num_classes", "input_shape", "num_clients", "num_rows", "mean", "std")


class Rows(NamedTuple):
    """The rows of some clients: client ``i`` of them owns ``starts[i]`` to ``+ sizes[i]``."""

    x: NDArray[Any]
    y: NDArray[Any]
    starts: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ClientStore:
    """An open store; `open_store` makes it. Its arrays are memory-mapped files.

    Attributes:
      folder: where it lies.
      name: of the data set.
      num_classes: L.
      x: inputs of all clients ``[M, ...]``.
      y: labels of all clients ``[M]``, or ``[M, T]`` for sequences.
      offsets: int64 ``[C + 1]``, the first row of each client and the end of the last one.
      test: inputs and labels of the global test set, or None.
      mean: of each channel of uint8 inputs, float32; None for other inputs.
      std: likewise their standard deviation.
    """

    folder: Path
    name: str
    num_classes: int
    x: Mapped
    y: Mapped
    offsets: Int[np.ndarray, " C+1"]
    test: tuple[Mapped, Mapped] | None
    mean: NDArray[np.float32] | None
    std: NDArray[np.float32] | None

    @property
    def num_clients(self) -> int:
        """C."""
        return len(self.offsets) - 1

    @property
    def num_rows(self) -> int:
        """M."""
        return len(self.x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example, without the batch axis."""
        return self.x.shape[1:]

    def sizes_of(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Rows of each of the given clients; the work does not depend on C.

        Raises:
          ValueError: if there is no such client.
        """
        begins, ends = self._spans(ids)
        return ends - begins

    def rows_of(self, ids: ArrayLike, capacity: int | None = None) -> Rows:
        """The rows of the given clients, in their order, in arrays of their own.

        The rows are read, not copied out of the mapped files: pages of a mapping count as memory of
        the process, which would grow to the size of the store. Ascending numbers read fastest.

        Args:
          ids: client numbers ``[n]``.
          capacity: rows of the arrays, at least those of the clients; the rest is zero. As many as
            needed if None.

        Raises:
          ValueError: if there is no such client, the capacity is too small, or a file is damaged.
        """
        begins, ends = self._spans(ids)
        sizes = ends - begins
        needed = int(sizes.sum())
        if capacity is not None and capacity < needed:
            raise InputError(
                f"capacity is {capacity} rows, but the {len(sizes)} clients have {needed}: ask for "
                "fewer clients or give more room."
            )
        length = needed if capacity is None else capacity
        spans = _joined(begins, ends)
        x = _read(self.folder / "x.npy", self.x, spans, length)
        y = _read(self.folder / "y.npy", self.y, spans, length)
        return Rows(x, y, np.cumsum(sizes) - sizes, sizes)

    def _spans(self, ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First row of each client, and the row after its last one."""
        numbers = np.asarray(ids, np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.num_clients:
            absent = numbers.min() if numbers.min() < 0 else numbers.max()
            raise InputError(
                f"client {absent} does not exist: clients of {self.name} are numbered from 0 to "
                f"{self.num_clients - 1}."
            )
        begins, ends = np.asarray(self.offsets[numbers]), np.asarray(self.offsets[numbers + 1])
        wrong = (begins < 0) | (ends < begins) | (ends > self.num_rows)
        if wrong.any():
            bad = numbers[wrong].flat[0]
            raise _damaged(self.folder, f"offsets.npy does not ascend at client {bad}")
        return begins, ends


def is_store(folder: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a client store."""
    return (Path(folder) / ABOUT).is_file()


def open_store(folder: str | os.PathLike[str]) -> ClientStore:
    """Opens a store. Its arrays are mapped, not read, so this takes no time and no memory.

    Only what costs nothing is checked: formats, shapes, dtypes, the first and the last offset.

    Args:
      folder: that `fedjax_kd.data.write_store` wrote.

    Raises:
      ValueError: if it is no store, one of another format, or a damaged one.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import synthetic_clients, write_store
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     clients = synthetic_clients(30, sigma=0)  # of 10 rows each
      ...     made = write_store(f"{parent}/s", clients, name="synthetic", num_classes=10)
      ...     store = open_store(f"{parent}/s")
      ...     store.num_clients, store.sizes_of([0, 29]), store.rows_of([29, 3]).x.shape
      (30, array([10, 10]), (20, 8, 8, 1))
    """
    path = Path(folder).absolute()
    about = _read_about(path)
    x, y, offsets = (_mapped(path, f"{name}.npy") for name in ("x", "y", "offsets"))
    _check_examples(path, "", x, y, about)
    _check_offsets(path, offsets, about)
    test = None
    if (path / "test_x.npy").exists():
        test = _mapped(path, "test_x.npy"), _mapped(path, "test_y.npy")
        _check_examples(path, "test_", *test, about)
    return ClientStore(
        folder=path,
        name=about["name"],
        num_classes=about["num_classes"],
        x=x,
        y=y,
        offsets=offsets,
        test=test,
        mean=_channels(about["mean"]),
        std=_channels(about["std"]),
    )


def _read_about(folder: Path) -> dict[str, Any]:
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
        raise _damaged(folder, f"{ABOUT} is no JSON ({error})") from error
    if not isinstance(about, Mapping) or "format" not in about:
        raise _damaged(folder, f"{ABOUT} names no format")
    if about["format"] != FORMAT:
        raise InputError(
            f"The store {folder} has format {about['format']!r}, but this version of fedjax_kd "
            f"reads format {FORMAT}: write it again with this version."
        )
    missing = [key for key in _KEYS if key not in about]
    if missing:
        raise _damaged(folder, f"{ABOUT} lacks {', '.join(missing)}")
    return dict(about)


def _mapped(folder: Path, name: str) -> Mapped:
    """An array of the store, mapped into memory; nothing is unpickled."""
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(folder, f"{name} cannot be read ({error})") from error
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        raise _damaged(folder, f"{name} is no array of rows")
    return array


def _check_examples(
    folder: Path, part: str, x: NDArray[Any], y: NDArray[Any], about: Mapping[str, Any]
) -> None:
    """Inputs and labels have the dtypes, shapes and lengths that they must have."""
    if x.dtype not in _INPUTS or y.dtype != np.int32:
        raise _damaged(folder, f"{part}x.npy is {x.dtype} and {part}y.npy {y.dtype}")
    if x.ndim == 0 or list(x.shape[1:]) != about["input_shape"]:
        raise _damaged(
            folder, f"{part}x.npy has shape {x.shape}, not inputs {about['input_shape']}"
        )
    if y.ndim == 0 or len(x) != len(y):
        raise _damaged(folder, f"{part}x.npy has {len(x)} rows, {part}y.npy shape {y.shape}")


def _check_offsets(folder: Path, offsets: NDArray[Any], about: Mapping[str, Any]) -> None:
    """As many offsets as clients say, from the first row to the last."""
    clients, rows = about["num_clients"], about["num_rows"]
    if offsets.dtype != np.int64 or offsets.shape != (clients + 1,):
        raise _damaged(folder, f"offsets.npy is {offsets.dtype}{list(offsets.shape)}")
    if (offsets[0], offsets[-1]) != (0, rows):
        raise _damaged(folder, f"offsets.npy runs from {offsets[0]} to {offsets[-1]}")


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(
        f"The store {folder} is damaged: {what}, but its files must be as they were written, and "
        "fit each other: write it again."
    )


def _channels(values: Any) -> NDArray[np.float32] | None:
    return None if values is None else np.asarray(values, np.float32)


def _joined(
    begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same rows in fewer spans: clients that follow each other on disk are read at once."""
    kept = ends > begins
    begins, ends = begins[kept], ends[kept]
    apart = begins[1:] != ends[:-1]
    ones = np.ones(min(len(begins), 1), bool)
    return begins[np.concatenate([ones, apart])], ends[np.concatenate([apart, ones])]


def _read(
    path: Path, array: Mapped, spans: tuple[NDArray[np.int64], NDArray[np.int64]], length: int
) -> NDArray[Any]:
    """The rows of all spans, one after another, in a new array of ``length`` rows."""
    each = array.dtype.itemsize * math.prod(array.shape[1:])
    raw, at = np.empty(length * each, np.uint8), 0
    # Unbuffered: a buffer would read ahead of every client.
    with open(path, "rb", buffering=0) as file:
        for begin, end in zip(*(edge.tolist() for edge in spans), strict=True):
            file.seek(array.offset + begin * each)
            _fill(file, raw.data[at : at + (end - begin) * each])
            at += (end - begin) * each
    raw[at:] = 0
    return raw.view(array.dtype).reshape(length, *array.shape[1:])


def _fill(file: FileIO, room: memoryview) -> None:
    """Reads until the room is full; one read gives 2 GiB at most."""
    while len(room):
        got = file.readinto(room)
        if not got:
            path = Path(str(file.name))
            raise _damaged(path.parent, f"{path.name} is cut short")
        room = room[got:]
