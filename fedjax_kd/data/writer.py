"""Writes client stores, one client after another, in memory that does not grow with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset, Examples, from_arrays, without_targets
from fedjax_kd.data.inputs import InputMoments, merged_moments, moments_of, statistics_of
from fedjax_kd.data.split import Split, parts_of
from fedjax_kd.data.store import ClientStore, open_store
from fedjax_kd.data.store_files import ABOUT, FORMAT, appending
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.problems import RECONSTRUCTION, Problem, problem_named

Pair = tuple[Any, Any]
"""Inputs and targets; None for no targets."""

_BLOCK_BYTES, _BLOCK_CLIENTS = 4 << 20, 1 << 16


class _Block(NamedTuple):
    """Consecutive clients."""

    first: int  # number of the first client
    x: NDArray[Any]
    y: NDArray[Any]
    sizes: Int[np.ndarray, " n"]


class _Totals(NamedTuple):
    """Counts over the clients written so far, and the moments of their inputs."""

    clients: int = 0
    rows: int = 0
    input_shape: tuple[int, ...] = ()
    moments: InputMoments | None = None


class _Kind(NamedTuple):
    """What all examples of a store have in common; a problem of None is read from them."""

    num_classes: int
    problem: str | Problem | None


def write_store(
    folder: str | os.PathLike[str],
    clients: Iterable[Pair],
    *,
    name: str,
    num_classes: int,
    problem: str | Problem | None = None,
    test: Pair | None = None,
) -> ClientStore:
    """Writes a client store, and opens it.

    The clients are written as they come, a few MiB at a time, to ``folder.part``, which is given
    its name when it is whole: a writer that fails or is killed leaves no half store behind.

    Args:
      folder: to write to; it must not exist.
      clients: inputs ``[N, ...]``, one array, and targets ``[N, ...]`` (None if there are none) of
        each client, client 0 first. A client may have no rows, but shapes and dtypes are those of
        the first one. Both are stored as in `from_arrays`.
      name: what reports call the data.
      num_classes: L, the size of a model's outputs: classes (labels are 0..L-1), labels or values.
      problem: what the targets are, as in `from_arrays`; read from the first clients by default.
      test: inputs and targets of the global test set.

    Raises:
      ValueError: if the folder exists or is being written, there is no client or no row, or arrays
        do not fit together; the message names the client.
      TypeError: if targets are not what the problem needs, or inputs are no numbers.

    Example:
      >>> import tempfile
      >>> clients = ((np.full((n, 2), n, np.float32), np.zeros(n, int)) for n in (3, 0, 2))
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     store = write_store(f"{parent}/tiny", clients, name="tiny", num_classes=2)
      ...     store.num_clients, store.num_rows, store.rows_of([2]).x.tolist()
      (3, 5, [[2.0, 2.0], [2.0, 2.0]])
    """
    if isinstance(problem, Problem):
        problem = problem_named(problem.name)  # by which the store is opened again
    target = Path(folder).absolute()
    part = target.with_name(f"{target.name}.part")
    _check_absent(target, part)
    part.mkdir(parents=True)
    try:
        about = _write(part, _blocks(clients), num_classes, problem, test)
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
    partitioner: Split,
) -> ClientStore:
    """Writes a data set, divided among clients, as a store with the data set's test rows.

    Args:
      folder: to write to; it must not exist.
      dataset: training and test examples.
      partitioner: which rows go to which client, as in `fedjax_kd.data.federate`.

    Raises:
      ValueError: if the folder exists, the partitioner cannot do what it is asked, or the data set
        is one that stores do not hold: of several arrays, or for reconstruction.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import IidPartitioner, load
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     store = pack(f"{parent}/digits", load(), IidPartitioner(num_partitions=10))
      ...     store.num_clients, store.num_rows, store.test[0].shape
      (10, 1437, (360, 8, 8, 1))
    """
    x, y = dataset.train.x, dataset.train.y
    for arrays in (x, y):
        _check_one_array(arrays)
    held = None if without_targets(dataset.train) else y
    return write_store(
        folder,
        ((x[p], None if held is None else held[p]) for p in parts_of(partitioner, dataset)),
        name=dataset.name,
        num_classes=dataset.num_classes,
        problem=dataset.problem,
        test=(dataset.test.x, None if held is None else dataset.test.y),
    )


def _check_one_array(given: Any) -> None:
    """Raises TypeError for a tree of several arrays."""
    if isinstance(given, Mapping) or (isinstance(given, tuple) and jax.tree.leaves(given)):
        raise InputTypeError(
            f"A client store holds one array of inputs and one of targets, but {type(given)} was "
            "given: join the arrays, or use `federate`, whose data lie in memory."
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
    for number, (given, targets) in enumerate(clients):
        for arrays in (given, targets):
            _check_one_array(arrays)
        x = np.asarray(given)
        # An array without columns stands for no targets: it can be cut and joined like others.
        y = np.zeros((len(x), 0), np.uint8) if targets is None else np.asarray(targets)
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
    part: Path,
    blocks: Iterator[_Block],
    num_classes: int,
    problem: str | Problem | None,
    test: Pair | None,
) -> dict[str, Any]:
    """Writes all arrays; returns their entries of ``store.json``."""
    totals, kind, found = _Totals(), _Kind(num_classes, problem), None
    targets = True
    with ExitStack() as stack:
        put_x, put_y, put_offsets = (
            stack.enter_context(appending(part / f"{name}.npy")) for name in ("x", "y", "offsets")
        )
        put_offsets(np.zeros(1, np.int64))
        for block in blocks:
            put_offsets(totals.rows + np.cumsum(block.sizes))
            totals = totals._replace(clients=totals.clients + len(block.sizes))
            if len(block.x) == 0:
                continue
            rows = _checked(block, kind)
            if found is None:
                found, targets = rows.problem, not without_targets(rows.train)
                kind = kind._replace(problem=found)
                if test is not None:
                    _write_test(part, rows.train, test, kind)
            put_x(rows.train.x)
            if targets:
                put_y(rows.train.y)
            totals = _add(totals, rows.train.x)
    if found is None or totals.moments is None:
        raise InputError(
            f"None of the {totals.clients} clients has a row, but a store needs at least one: "
            "check their source."
        )
    if not targets:
        (part / "y.npy").unlink()
    return {
        "problem": found.name,
        "targets": targets,
        "num_classes": num_classes,
        "input_shape": totals.input_shape,
        "num_clients": totals.clients,
        "num_rows": totals.rows,
        **{n: v.tolist() for n, v in statistics_of(totals.moments)._asdict().items()},
    }


def _checked(block: _Block, kind: _Kind) -> Dataset:
    """The rows of a block in the dtypes of a data set."""
    x, y = block.x, block.y if block.y.shape[1:] != (0,) else None
    head = None if y is None else y[:1]
    try:
        made = from_arrays(x, y, x[:1], head, num_classes=kind.num_classes, problem=kind.problem)
    except (TypeError, ValueError) as error:
        last = block.first + len(block.sizes) - 1
        raise type(error)(f"{error} (Among clients {block.first} to {last}.)") from error
    if made.problem is RECONSTRUCTION:
        raise InputError(
            "A client store holds targets, or none, but the problem is reconstruction, whose "
            "targets are inputs stretched in memory: use `federate`."
        )
    return made


def _write_test(part: Path, rows: Examples, test: Pair, kind: _Kind) -> None:
    """The test set, if its examples are like those of the clients."""
    y = None if test[1] is None or without_targets(rows) else np.asarray(test[1])
    head = None if without_targets(rows) else rows.y[:1]
    held_out = from_arrays(
        rows.x[:1], head, np.asarray(test[0]), y, num_classes=kind.num_classes, problem=kind.problem
    ).test
    for name, values in (("test_x", held_out.x), ("test_y", held_out.y)):
        if isinstance(values, np.ndarray):
            with appending(part / f"{name}.npy") as append:
                append(values)


def _add(totals: _Totals, x: NDArray[Any]) -> _Totals:
    """The totals with further rows."""
    found = moments_of(x)
    return totals._replace(
        rows=totals.rows + len(x),
        input_shape=x.shape[1:],
        moments=found if totals.moments is None else merged_moments(totals.moments, found),
    )
