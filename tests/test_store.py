"""Client stores: what is written is read, half or damaged stores are noticed, memory is bounded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.data import (
    ClientStore,
    DirichletPartitioner,
    IidPartitioner,
    from_arrays,
    is_store,
    open_store,
    pack,
    write_store,
)
from fedjax_kd.data.federation import federate
from fedjax_kd.data.inputs import standardise
from fedjax_kd.problems import TOKENS

NOBODY = 2**31 - 1
Pair = tuple[np.ndarray, np.ndarray]


def clients(sizes: list[int], dtype: Any = np.uint8, shape: tuple[int, ...] = (2, 3)) -> list[Pair]:
    """Clients whose every value is different."""
    rng = np.random.default_rng(sum(sizes))
    return [
        (rng.integers(0, 200, (n, *shape)).astype(dtype), rng.integers(0, 4, n).astype(np.int32))
        for n in sizes
    ]


def written(folder: Path, sizes: list[int], **options: Any) -> ClientStore:
    return write_store(folder, clients(sizes, **options), name="made", num_classes=4)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any),
    st.sampled_from([(np.uint8, ()), (np.int32, (3,)), (np.float32, (2, 2, 1))]),
    st.data(),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], kind: Any, data: st.DataObject
):
    dtype, shape = kind
    made = clients(sizes, dtype, shape)
    folder = tmp_path_factory.mktemp("stores") / "store"
    write_store(folder, iter(made), name="made", num_classes=4)
    store = open_store(folder)
    assert (store.name, store.num_classes, store.num_clients) == ("made", 4, len(sizes))
    assert (store.num_rows, store.input_shape, store.x.dtype) == (sum(sizes), shape, dtype)
    assert store.sizes_of(np.arange(len(sizes))).tolist() == sizes
    ids = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=8))
    held = sum(sizes[i] for i in ids)
    spare = data.draw(st.integers(0, 5))
    rows = store.rows_of(ids, held + spare)
    assert rows.sizes.tolist() == [sizes[i] for i in ids]
    assert len(rows.x) == len(rows.y) == held + spare
    for i, start, size in zip(ids, rows.starts, rows.sizes, strict=True):
        np.testing.assert_array_equal(rows.x[start : start + size], made[i][0])
        np.testing.assert_array_equal(rows.y[start : start + size], made[i][1])
    assert not rows.x[held:].any()
    assert not rows.y[held:].any()


def test_labels_may_be_sequences(tmp_path: Path):
    x = np.arange(12, dtype=np.int32).reshape(4, 3)
    y = np.where(x % 2 == 0, x, -1)
    store = write_store(tmp_path / "s", [(x[:1], y[:1]), (x[1:], y[1:])], name="", num_classes=12)
    np.testing.assert_array_equal(store.rows_of([1]).y, y[1:])
    assert store.test is None
    assert store.problem is TOKENS


def test_blocks_of_the_writer_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = clients([0, 0, 3, 0, 5, 1, 0, 2, 0, 0])
    whole = write_store(tmp_path / "whole", made, name="a", num_classes=4)
    monkeypatch.setattr("fedjax_kd.data.writer._BLOCK_CLIENTS", 2)
    parts = write_store(tmp_path / "parts", made, name="a", num_classes=4)
    for file in sorted(whole.folder.iterdir()):
        assert file.read_bytes() == (parts.folder / file.name).read_bytes()


def test_the_files_are_plain_arrays(tmp_path: Path):
    store = written(tmp_path / "s", [2, 0, 3])
    x = np.load(store.folder / "x.npy")
    np.testing.assert_array_equal(x, np.concatenate([x for x, _ in clients([2, 0, 3])]))
    assert np.load(store.folder / "offsets.npy").tolist() == [0, 2, 2, 5]
    about = json.loads((store.folder / "store.json").read_text())
    assert (about["format"], about["num_clients"], about["num_rows"]) == (1, 3, 5)


def test_arrays_belong_to_the_caller(tmp_path: Path):
    store = written(tmp_path / "s", [4])
    rows = store.rows_of([0])
    rows.x[:] = 0
    assert store.rows_of([0]).x.any()
    with pytest.raises(ValueError, match="read-only"):
        store.x[:] = 0


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_standardised_as_in_memory(tmp_path: Path, channels: int):
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 255, (90, 4, 4, channels)) // np.arange(1, 1 + channels)).astype(np.uint8)
    y = np.arange(90) % 4
    data = from_arrays(x, y, x[:5], y[:5], name="pixels")
    split = IidPartitioner(num_partitions=7)
    store, pool = pack(tmp_path / "s", data, split), federate(data, split)
    mean, std, *_ = store.statistics
    ready = standardise(x[:9], mean=mean, std=std)
    np.testing.assert_array_equal(ready, pool.prepare(x[:9]))
    np.testing.assert_array_equal(store.test[0], data.test.x)
    np.testing.assert_array_equal(store.test[1], data.test.y)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedjax_kd.data.writer._BLOCK_CLIENTS", 2)
    during = []

    def interrupted() -> Iterator[Pair]:
        yield from clients([3, 2, 4])
        during.extend(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", interrupted(), name="made", num_classes=4)
    assert during == ["s.part"]
    assert list(tmp_path.iterdir()) == []
    assert written(tmp_path / "s", [1]).num_clients == 1


def test_a_killed_writer_is_noticed(tmp_path: Path):
    (tmp_path / "s.part").mkdir()
    assert not is_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"s\.part exists: .* remove that folder"):
        written(tmp_path / "s", [1])
    assert (tmp_path / "s.part").is_dir()


def test_a_store_is_not_written_over(tmp_path: Path):
    written(tmp_path / "s", [2])
    with pytest.raises(ValueError, match="exists, but a store is written to a new folder"):
        written(tmp_path / "s", [5])
    assert open_store(tmp_path / "s").num_rows == 2


ONE = np.zeros((2, 3), np.uint8), np.zeros(2, np.int32)
WRONG: dict[str, tuple[list[Pair], type[Exception], str]] = {
    "nobody": ([], ValueError, "There are no clients"),
    "nothing": ([(ONE[0][:0], ONE[1][:0])] * 2, ValueError, "None of the 2 clients has a row"),
    "shape": (
        [ONE, (np.zeros((2, 4), np.uint8), ONE[1])],
        ValueError,
        r"client 1 has x uint8\[2, 4",
    ),
    "dtype": ([ONE, (np.zeros((2, 3)), ONE[1])], ValueError, "client 1 has x float64"),
    "label dtype": ([ONE, (ONE[0], np.zeros(2, int))], ValueError, "client 1 .* y int64"),
    "lengths": ([ONE, (ONE[0], ONE[1][:1])], ValueError, "client 1 .* a label for each input"),
    "scalars": ([(np.float32(1), np.int32(1))], ValueError, "client 0"),
    "labels": ([ONE, (ONE[0], ONE[1] + 4)], ValueError, r"num_classes=4 .*\(Among clients 0 to 1"),
    "words": ([(ONE[0], np.array(["a", "b"]))], TypeError, "must hold whole numbers"),
    "infinite": ([(np.full((2, 3), np.inf), ONE[1])], ValueError, "holds a NaN or an infinity"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_clients(tmp_path: Path, case: str):
    wrong, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        write_store(tmp_path / "s", wrong, name="wrong", num_classes=4)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_test_set(tmp_path: Path):
    with pytest.raises(ValueError, match="test_x"):
        write_store(
            tmp_path / "s", [ONE], name="", num_classes=4, test=(np.zeros((1, 4), np.uint8), [0])
        )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(**changes: Any) -> Callable[[Path], None]:
    """Changes entries of store.json; None takes one away."""

    def change(path: Path) -> None:
        about = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))

    return change


def put(values: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no json": ("store.json", lambda path: path.write_text("{"), "is no JSON"),
    "no mapping": ("store.json", lambda path: path.write_text("[]"), "names no format"),
    "format": ("store.json", edit(format=7), "has format 7, but .* reads format 1"),
    "no format": ("store.json", edit(format=None), "names no format"),
    "no name": ("store.json", edit(name=None, mean=None), "lacks name, mean"),
    "clients": ("store.json", edit(num_clients=2), r"offsets.npy is int64\[4\]"),
    "rows": ("store.json", edit(num_rows=7), "runs from 0 to 6"),
    "input": ("store.json", edit(input_shape=[6]), r"shape \(6, 2, 3\), not inputs \[6\]"),
    "no x": ("x.npy", Path.unlink, "x.npy cannot be read"),
    "short x": ("x.npy", cut, "x.npy cannot be read"),
    "short y": ("y.npy", cut, "y.npy cannot be read"),
    "empty": ("y.npy", lambda path: path.write_bytes(b""), "y.npy cannot be read"),
    "objects": ("y.npy", put(np.array([None, 1])), "y.npy cannot be read"),
    "few labels": ("y.npy", put(np.zeros(5, np.int32)), "x.npy has 6 rows, y.npy shape"),
    "label dtype": ("y.npy", put(np.zeros(6)), "y.npy float64"),
    "input dtype": ("x.npy", put(np.zeros((6, 2, 3))), "x.npy is float64"),
    "columns": ("x.npy", put(np.asfortranarray(np.ones((6, 2, 3)))), "x.npy is no array of rows"),
    "first": ("offsets.npy", put(np.array([1, 2, 3, 6])), "runs from 1 to 6"),
    "last": ("offsets.npy", put(np.array([0, 2, 3, 5])), "runs from 0 to 5"),
    "offset dtype": ("offsets.npy", put(np.array([0.0, 2, 3, 6])), "offsets.npy is float64"),
    "no test y": ("test_y.npy", Path.unlink, "test_y.npy cannot be read"),
    "few test labels": ("test_y.npy", put(np.zeros(1, np.int32)), "test_x.npy has 2 rows"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_stores(tmp_path: Path, case: str):
    made = clients([2, 1, 3])
    write_store(tmp_path / "s", made, name="made", num_classes=4, test=made[0])
    name, damage, message = DAMAGE[case]
    damage(tmp_path / "s" / name)
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path / "s")


def test_damage_that_shows_later(tmp_path: Path):
    store = written(tmp_path / "s", [2, 1, 3])
    for offsets in ([0, 4, 3, 6], [0, 2, 9, 6], [0, -1, 3, 6]):
        put(np.array(offsets))(store.folder / "offsets.npy")
        with pytest.raises(ValueError, match=r"offsets.npy does not ascend at client 1"):
            open_store(store.folder).rows_of([1, 1])
    (store.folder / "x.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.npy is cut short"):
        replace(store, offsets=np.array([0, 2, 3, 6])).rows_of([2])


def test_missing_stores_and_clients(tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist or is no folder"):
        open_store(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no store.json"):
        open_store(tmp_path)
    store = written(tmp_path / "s", [2, 1, 3])
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"client {wrong} does not exist: .* from 0 to 2"):
            store.rows_of([0, wrong])
    assert store.rows_of([]).x.shape == (0, 2, 3)


def test_packing_keeps_the_order_of_each_client(tmp_path: Path):
    data = dataset(300)
    split = DirichletPartitioner(num_partitions=30, alpha=0.1, min_partition_size=0, seed=3)
    store = pack(tmp_path / "s", data, split)
    for client, part in enumerate(split(data)):
        rows = store.rows_of([client])
        np.testing.assert_array_equal(rows.x, data.train.x[part])
        np.testing.assert_array_equal(rows.y, data.train.y[part])


def test_the_writer_needs_the_same_memory_for_more_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fedjax_kd.data.writer._BLOCK_BYTES", 20_000)
    one = clients([20])[0]

    def peak(number: int) -> int:
        tracemalloc.start()
        write_store(tmp_path / f"{number}", (one for _ in range(number)), name="", num_classes=4)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # what is imported or cached at the first call
    few, many = peak(1000), peak(10_000)
    assert many < few + 200_000, "10 000 clients hold 2 MB"
