"""Windows on client stores: interchangeable with pools, of few shapes, and small."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import dataset, federation
from hypothesis import given
from hypothesis import strategies as st

from fedjax_kd.data import (
    ClientStore,
    WindowSize,
    make_window,
    open_store,
    pack,
    window_size,
    write_store,
)
from fedjax_kd.data.window import _rounded_up

NOBODY = 2**31 - 1


def written(folder: Path, sizes: list[int]) -> ClientStore:
    """Clients of the given sizes, whose every value is different."""
    ends = np.cumsum(sizes)
    clients = [
        (np.arange(end - n, end).reshape(n, 1), np.zeros(n, int))
        for n, end in zip(sizes, ends, strict=True)
    ]
    return write_store(folder, clients, name="made", num_classes=4)


@pytest.mark.parametrize("sizes", [(7, 0, 1, 5, 12, 3), (0, 0, 9)])
def test_a_window_is_a_pool(tmp_path: Path, sizes: tuple[int, ...]):
    pool = federation(sizes).train
    store = pack(
        tmp_path / "s",
        dataset(sum(sizes)),
        lambda data: [np.asarray(part) for part in federation(sizes).parts],
    )
    everyone = np.arange(len(sizes))
    room = window_size(store, [everyone])
    window = jax.tree.map(jnp.asarray, make_window(store, everyone[::-1], room))
    for client in range(len(sizes)):
        here, there = window.of(jnp.int32(client)), pool.of(jnp.int32(client))
        assert int(here.size) == int(there.size)
        own = jnp.arange(int(there.size), dtype=jnp.int32)
        batches = [data.take(own, jnp.ones(len(own))) for data in (here, there)]
        jax.tree.map(np.testing.assert_array_equal, *batches)


def test_a_window_holds_those_that_were_asked_for(tmp_path: Path):
    sizes = [3, 1, 0, 4, 2]
    store = written(tmp_path / "s", sizes)
    slots = np.array([[3, 5], [0, 3], [2, 5]], np.int32)  # 5 is an empty place
    window = make_window(store, slots, WindowSize(rows=10, clients=6))
    assert window.ids.tolist() == [0, 2, 3, NOBODY, NOBODY, NOBODY]
    assert {a.dtype for a in window[2:]} == {np.dtype(np.int32)}
    of = jax.jit(jax.vmap(lambda client: window_of(window, client).size))
    asked = jnp.array([*range(6), NOBODY], jnp.int32)
    assert of(asked).tolist() == [3, 0, 0, 4, 0, 0, 0]


def window_of(window: Any, client: jax.Array) -> Any:
    return jax.tree.map(jnp.asarray, window).of(client)


def test_a_full_window_knows_who_is_missing(tmp_path: Path):
    store = written(tmp_path / "s", [3, 1, 2])
    window = make_window(store, [0, 1], WindowSize(rows=4, clients=2))
    assert [int(window_of(window, jnp.int32(c)).size) for c in (0, 1, 2, 3)] == [3, 1, 0, 0]


def test_windows_of_one_capacity_share_a_program(tmp_path: Path):
    store = written(tmp_path / "s", [3, 1, 2, 9, 4])
    blocks = [np.array([0, 1]), np.array([3, 4, 5]), np.array([2])]
    room = window_size(store, blocks)
    assert room == WindowSize(rows=14, clients=2)
    traced = []

    @jax.jit
    def held(window: Any) -> jax.Array:
        traced.append(1)
        return window.sizes.sum()

    assert [int(held(make_window(store, ids, room))) for ids in blocks] == [4, 13, 2]
    assert len(traced) == 1


@given(st.integers(1, 10**9))
def test_the_ladder_wastes_less_than_a_quarter(least: int):
    room = _rounded_up(least)
    assert least <= room < 1.25 * least
    assert _rounded_up(room) == room
    assert len({_rounded_up(n) for n in range(1024, 2048)}) == 5, "1024 and four more"


def test_windows_without_room(tmp_path: Path):
    store = written(tmp_path / "s", [3, 1, 2])
    with pytest.raises(ValueError, match=r"capacity is 3 rows, but the 2 clients have 4"):
        make_window(store, [0, 1], WindowSize(3, 2))
    with pytest.raises(ValueError, match="room for 1 clients, but 2 take part"):
        make_window(store, [0, 1], WindowSize(4, 1))
    with pytest.raises(ValueError, match="counted in 32 bits"):
        make_window(store, [0, 1], WindowSize(2**31, 2))


def test_sampling_a_large_store_takes_the_memory_of_its_window(tmp_path: Path):
    number = 1_000_000
    written(tmp_path / "s", [1])
    held = np.arange(number) % 3 == 0
    np.save(tmp_path / "s/offsets.npy", np.concatenate([[0], np.cumsum(held)]))
    np.save(tmp_path / "s/x.npy", np.ones((held.sum(), 4), np.int32))
    np.save(tmp_path / "s/y.npy", np.zeros(held.sum(), np.int32))
    about = {"num_clients": number, "num_rows": int(held.sum()), "input_shape": [4]}
    path = tmp_path / "s/store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | about))
    ids = np.random.default_rng(0).choice(number, 3000, replace=False)
    tracemalloc.start()
    store = open_store(tmp_path / "s")
    window = make_window(store, ids, window_size(store, [ids]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.num_clients == number
    assert window.sizes.sum() == held[ids].sum() > 900
    assert peak < 5e5, "the offsets alone are 8 MB"
