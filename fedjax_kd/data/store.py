"""Client stores: federations on disk, larger than the memory of the device or of the host.

A store is a folder of plain files, every client's rows in one piece:

* ``x.npy``, ``y.npy``: inputs ``[M, ...]`` (uint8, int32 or float32) and targets, as their problem
  stores them, client after client; no ``y.npy`` where there are no targets;
* ``offsets.npy``: int64 ``[C + 1]``; client ``c`` owns the rows ``offsets[c]`` to
  ``offsets[c + 1]``;
* ``test_x.npy``, ``test_y.npy``: the global test set, if there is one;
* ``store.json``: format, name, problem, numbers of classes, clients and rows, the shape of an
  input, and mean, deviation and range of inputs along their last axis.

`fedjax_kd.data.write_store` writes one, `open_store` opens it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike, NDArray

from fedjax_kd.data import inputs
from fedjax_kd.data.inputs import Preparation, Standardise, Statistics
from fedjax_kd.data.store_files import (
    Mapped,
    check_examples,
    check_offsets,
    damaged,
    mapped,
    problem_told,
    read_about,
    statistics_told,
)
from fedjax_kd.errors import InputError
from fedjax_kd.problems import CLASSIFICATION, TOKENS, Problem


class Rows(NamedTuple):
    """The rows of some clients: client ``i`` of them owns ``starts[i]`` to ``+ sizes[i]``."""

    x: NDArray[Any]
    y: NDArray[Any]  # the inputs themselves where there are no targets
    starts: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False, repr=False)
class ClientStore:
    """An open store; `open_store` makes it. Its arrays are memory-mapped files.

    Attributes:
      folder: where it lies.
      name: of the data set.
      num_classes: L, the size of a model's outputs: classes, labels or values.
      x: inputs of all clients ``[M, ...]``.
      y: targets of all clients ``[M, ...]``; None if there are none.
      offsets: int64 ``[C + 1]``, the first row of each client and the end of the last one.
      test: inputs and targets of the global test set, or None.
      statistics: of the clients' inputs along their last axis; None in older stores of floats.
      problem: what the targets are.
    """

    folder: Path
    name: str
    num_classes: int
    x: Mapped
    y: Mapped | None
    offsets: Int[np.ndarray, " C+1"]
    test: tuple[Mapped, Mapped | None] | None
    statistics: Statistics | None
    problem: Problem = CLASSIFICATION

    def __repr__(self) -> str:
        return (
            f"ClientStore({str(self.folder)!r}, {self.problem.name}, {self.num_clients:,} clients, "
            f"{self.num_rows:,} rows, x {self.x.dtype}{list(self.input_shape)}, "
            f"num_classes={self.num_classes})"
        )

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

    def preparation(self, standardise: Standardise) -> Preparation:
        """What is done with inputs, see `fedjax_kd.data.inputs.preparation`.

        Raises:
          ValueError: if the store does not tell the statistics that it takes.
        """
        kind = inputs.kind_for(standardise, self.x, positions=self.problem is TOKENS)
        if self.statistics is None and standardise not in ("auto", "none"):
            raise InputError(
                f"standardise is {standardise!r}, but the store {self.folder} tells no mean or "
                "deviation of its inputs: write it again, or take 'none'."
            )
        return inputs.prepared_by(self.statistics, kind, self.x)

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
        y = x if self.y is None else _read(self.folder / "y.npy", self.y, spans, length)
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
            raise damaged(self.folder, f"offsets.npy does not ascend at client {bad}")
        return begins, ends


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
    about = read_about(path)
    x, offsets = (mapped(path, f"{name}.npy") for name in ("x", "offsets"))
    y = mapped(path, "y.npy") if about["targets"] else None
    check_examples(path, "", x, y, about)
    check_offsets(path, offsets, about)
    test = None
    if (path / "test_x.npy").exists():
        held_out = mapped(path, "test_y.npy") if about["targets"] else None
        test = mapped(path, "test_x.npy"), held_out
        check_examples(path, "test_", *test, about)
    return ClientStore(
        folder=path,
        name=about["name"],
        num_classes=about["num_classes"],
        x=x,
        y=y,
        offsets=offsets,
        test=test,
        statistics=statistics_told(about),
        problem=problem_told(about, y),
    )


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
            raise damaged(path.parent, f"{path.name} is cut short")
        room = room[got:]
