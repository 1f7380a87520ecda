"""Client stores of every problem, and what is done with their inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_kd.data import (
    IidPartitioner,
    from_arrays,
    load,
    make_window,
    open_store,
    pack,
    window_size,
    write_store,
)
from fedjax_kd.data.federation import federate, streamed
from fedjax_kd.problems import REGRESSION


def clients(dtype: Any = np.uint8, sizes: tuple[int, ...] = (5, 0, 7)) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(sum(sizes))
    return [
        (rng.integers(0, 200, (n, 2, 3)).astype(dtype), rng.integers(0, 4, n).astype(np.int32))
        for n in sizes
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
@pytest.mark.parametrize("how", ["auto", "channel", "feature", "unit", "none"])
def test_streamed_inputs_are_prepared_as_in_memory(tmp_path: Path, dtype: Any, how: Any):
    made = clients(dtype)
    store = write_store(tmp_path / "s", made, name="made", num_classes=4, test=made[0])
    x, y = (np.concatenate(arrays) for arrays in zip(*made, strict=True))
    pool = federate(
        from_arrays(x, y, *made[0], num_classes=4), [range(5), (), range(5, 12)], standardise=how
    )
    ready = streamed(store, standardise=how)
    np.testing.assert_array_equal(ready.prepare(x), pool.prepare(x))
    assert ready.inputs == pool.inputs


def test_older_stores_are_opened(tmp_path: Path):
    made = clients()
    new = write_store(tmp_path / "s", made, name="made", num_classes=4, test=made[0])
    about = json.loads((new.folder / "store.json").read_text())
    for key in ("problem", "targets", "low", "high"):
        del about[key]
    (new.folder / "store.json").write_text(json.dumps(about))
    old = open_store(new.folder)
    x = made[0][0]
    np.testing.assert_array_equal(streamed(old).prepare(x), streamed(new).prepare(x))
    with pytest.raises(ValueError, match="the store does not tell the range"):
        streamed(old, standardise="unit")
    (new.folder / "store.json").write_text(json.dumps(about | {"mean": None, "std": None}))
    assert streamed(open_store(new.folder)).inputs == "bytes, as they are"
    with pytest.raises(ValueError, match="tells no mean or deviation"):
        streamed(open_store(new.folder), standardise="channel")


@pytest.mark.parametrize("name", ["diabetes", "digits_bits", "digits_strokes", "digits_unlabelled"])
def test_every_problem_is_streamed(tmp_path: Path, name: str):
    data, split = load(name), IidPartitioner(num_partitions=7)
    store, pool = pack(tmp_path / "s", data, split), federate(data, split)
    ready = streamed(open_store(store.folder))
    assert (ready.problem, ready.num_classes) == (pool.problem, pool.num_classes)
    for part in ("train", "test"):
        a, b = (getattr(f, part).of(jnp.int32(0)) for f in (ready, pool))
        assert int(a.size) == int(b.size)
        rows = jnp.arange(int(a.size), dtype=jnp.int32)
        one, other = (d.take(rows, jnp.ones(len(rows))) for d in (a, b))
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
    window = make_window(store, [3, 1], window_size(store, [[3, 1]]))
    window = jax.tree.map(jnp.asarray, window)
    own = window.of(jnp.int32(3)).take(jnp.arange(4, dtype=jnp.int32), jnp.ones(4))
    part = split(data)[3][:4]
    y = data.train.x if name == "digits_unlabelled" else data.train.y
    np.testing.assert_array_equal(own.y, y[part])


def test_what_stores_do_not_hold(tmp_path: Path):
    x, y = np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32)
    several = from_arrays({"a": x}, None, {"a": x}, None)
    again = from_arrays(x, None, x, None, problem="reconstruction")
    for data, words in ((several, "one array of inputs"), (again, "reconstruction")):
        with pytest.raises((TypeError, ValueError), match=words):
            pack(tmp_path / "s", data, [range(4)])
    own = replace(REGRESSION, name="mine")
    with pytest.raises(ValueError, match="no problem 'mine'"):
        write_store(tmp_path / "s", [(x, y)], name="", num_classes=2, problem=own)
    assert list(tmp_path.iterdir()) == []
