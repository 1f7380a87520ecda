"""Writes client stores, one client after another, in memory that does not grow with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset, Examples, from_arrays
from fedjax_kd.data.store import ABOUT, FORMAT, ClientStore, open_store
from fedjax_kd.errors import InputError

Pair = tuple[NDArray[Any], NDArray[Any]]
"""Inputs and labels."""

_BLOCK_BYTES, _BLOCK_CLIENTS = 4 << 20, 1 << 16


class _Block(NamedTuple):
    """Consecutive clients."""

    first: int  # number of the first client
    x: NDArray[Any]
    y: NDArray[Any]
    sizes: Int[np.ndarray, " n"]


class _Totals(NamedTuple):
    """Counts and sums over the clients written so far. ``total`` and ``squares`` are sums of uint8
    inputs a channel, exact up to 1e14 values.
    """

    clients: int = 0
    rows: int = 0
    input_shape: tuple[int, ...] = ()
    values: int = 0
    total: NDArray[np.int64] = np.zeros((), np.int64)
    squares: NDArray[np.int64] = np.zeros((), np.int64)


def write_store(
    folder: str | os.PathLike[str],
    clients: Iterable[Pair],
    *,
    name: str,
    num_classes: int,
    test: Pair | None = None,
) -> ClientStore:
    """Writes a client store, and opens it.

    The clients are written as they come, a few MiB at a time, to ``folder.part``, which is given
    its name when it is whole: a writer that fails or is killed leaves no half store behind.

    Args:
      folder: to write to; it must not exist.
      clients: inputs ``[N, ...]`` and labels ``[N]`` (``[N, T]`` for sequences) of each client,
        client 0 first. A client may have no rows, but shapes and dtypes are those of the first one.
        As in `from_arrays`, bytes stay bytes, other integers become int32 and floats float32.
      name: what reports call the data.
      num_classes: L; labels are 0..L-1.
      test: inputs and labels of the global test set.

    Raises:
      ValueError: if the folder exists or is being written, there is no client or no row, or arrays
        do not fit together; the message names the client.
      TypeError: if labels are not integers, or inputs are neither integers nor floats.

    Example:
      >>> import tempfile
      >>> clients = ((np.full((n, 2), n, np.float32), np.zeros(n, int)) for n in (3, 0, 2))
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     store = write_store(f"{parent}/tiny", clients, name="tiny", num_classes=2)
      ...     store.num_clients, store.num_rows, store.rows_of([2]).x.tolist()
      (3, 5, [[2.0, 2.0], [2.0, 2.0]])
    """
    target = Path(folder).absolute()
    part = target.with_name(f"{target.name}.part")
    _check_absent(target, part)
    part.mkdir(parents=True)
    try:
        about = _write(part, _blocks(clients), num_classes, test)
        text = json.dumps({"format": FORMAT, "name": name, **about}, indent=1)
        (part / ABOUT).write_text(text, encoding="utf-8")
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part)
        raise
    return open_store(target)


def pack(
    folder: str | os.PathLike[str],
    dataset: Dataset,
    partitioner: Callable[[Dataset], Iterable[NDArray[np.int64]]],
) -> ClientStore:
    """Writes a data set, divided among clients, as a store with the data set's test rows.

    Args:
      folder: to write to; it must not exist.
      dataset: training and test examples.
      partitioner: which rows go to which client, from `fedjax_kd.data.partition`.

    Raises:
      ValueError: if the folder exists, or the partitioner cannot do what it is asked.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import IidPartitioner, load
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     store = pack(f"{parent}/digits", load(), IidPartitioner(num_partitions=10))
      ...     store.num_clients, store.num_rows, store.test[0].shape
      (10, 1437, (360, 8, 8, 1))
    """
    x, y = dataset.train.x, dataset.train.y
    return write_store(
        folder,
        ((x[part], y[part]) for part in partitioner(dataset)),
        name=dataset.name,
        num_classes=dataset.num_classes,
        test=(dataset.test.x, dataset.test.y),
    )


def _check_absent(target: Path, part: Path) -> None:
    """Raises ValueError if the store exists or is being written."""
    if target.exists():
        raise InputError(
            f"{target} exists, but a store is written to a new folder: take another name or remove "
            "it first."
        )
    if part.exists():
        raise InputError(
            f"{part} exists: this store is being written, or its writer was killed. Wait, or "
            "remove that folder if nobody writes to it."
        )


def _blocks(clients: Iterable[Pair]) -> Iterator[_Block]:
    """The clients, a few MiB at a time."""
    first, count, held, kept = 0, 0, 0, list[Pair]()
    kind = None
    for number, pair in enumerate(clients):
        x, y = np.asarray(pair[0]), np.asarray(pair[1])
        found = (x.dtype, x.shape[1:], y.dtype, y.shape[1:])
        kind = kind or found
        if found != kind or x.ndim == 0 or x.shape[:1] != y.shape[:1]:
            raise InputError(_misfit(number, x, y, kind))
        kept.append((x, y))
        held, count = held + x.nbytes + y.nbytes, number + 1
        if held >= _BLOCK_BYTES or len(kept) == _BLOCK_CLIENTS:
            yield _block(first, kept)
            first, held, kept = count, 0, []
    if count == 0:
        raise InputError(
            "There are no clients, but a store needs at least one: check their source."
        )
    if kept:
        yield _block(first, kept)


def _misfit(number: int, x: NDArray[Any], y: NDArray[Any], kind: tuple[Any, ...]) -> str:
    return (
        f"client {number} has x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}, but needs "
        f"x {kind[0]} and y {kind[2]} with a label for each input, and shapes [N, ...] that end in "
        f"{list(kind[1])} and {list(kind[3])} as those of client 0: convert or reshape it."
    )


def _block(first: int, pairs: list[Pair]) -> _Block:
    x, y = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return _Block(first, x, y, np.array([len(y) for _, y in pairs], np.int64))


def _write(
    part: Path, blocks: Iterator[_Block], num_classes: int, test: Pair | None
) -> dict[str, Any]:
    """Writes all arrays; returns their entries of ``store.json``."""
    totals = _Totals()
    with ExitStack() as stack:
        put_x, put_y, put_offsets = (
            stack.enter_context(_npy(part / f"{name}.npy")) for name in ("x", "y", "offsets")
        )
        put_offsets(np.zeros(1, np.int64))
        for block in blocks:
            put_offsets(totals.rows + np.cumsum(block.sizes))
            totals = totals._replace(clients=totals.clients + len(block.sizes))
            if len(block.x) == 0:
                continue
            rows = _checked(block, num_classes)
            if totals.rows == 0 and test is not None:
                _write_test(part, rows, test, num_classes)
            put_x(rows.x)
            put_y(rows.y)
            totals = _add(totals, rows.x)
    if totals.rows == 0:
        raise InputError(
            f"None of the {totals.clients} clients has a row, but a store needs at least one: "
            "check their source."
        )
    return {
        "num_classes": num_classes,
        "input_shape": totals.input_shape,
        "num_clients": totals.clients,
        "num_rows": totals.rows,
        **_moments(totals),
    }


@contextmanager
def _npy(path: Path) -> Iterator[Callable[[NDArray[Any]], None]]:
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


def _checked(block: _Block, num_classes: int) -> Examples:
    """The rows of a block in the dtypes of a data set."""
    x, y = block.x, block.y
    try:
        return from_arrays(x, y, x[:1], y[:1], num_classes=num_classes).train
    except (TypeError, ValueError) as error:
        last = block.first + len(block.sizes) - 1
        raise type(error)(f"{error} (Among clients {block.first} to {last}.)") from error


def _write_test(part: Path, rows: Examples, test: Pair, num_classes: int) -> None:
    """The test set, if its examples are like those of the clients."""
    held_out = from_arrays(
        rows.x[:1], rows.y[:1], np.asarray(test[0]), np.asarray(test[1]), num_classes=num_classes
    ).test
    for name, values in (("test_x", held_out.x), ("test_y", held_out.y)):
        with _npy(part / f"{name}.npy") as append:
            append(values)


def _add(totals: _Totals, x: NDArray[Any]) -> _Totals:
    """The totals with further rows."""
    totals = totals._replace(rows=totals.rows + len(x), input_shape=x.shape[1:])
    if x.dtype != np.uint8:
        return totals
    pixels = x.reshape(-1, *x.shape[1:][-1:])
    return totals._replace(
        total=totals.total + pixels.sum(axis=0, dtype=np.int64),
        squares=totals.squares + np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64),
        values=totals.values + len(pixels),
    )


def _moments(totals: _Totals) -> dict[str, list[float] | None]:
    """Mean and standard deviation of each channel, if the inputs are bytes."""
    if totals.values == 0:
        return {"mean": None, "std": None}
    mean = totals.total / totals.values
    std = np.sqrt(np.maximum(totals.squares / totals.values - mean**2, 0))
    return {"mean": mean.tolist(), "std": np.maximum(std, 1e-6).tolist()}
