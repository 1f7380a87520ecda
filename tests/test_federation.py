"""Pools, the test rows of each client, and the preparation of inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import SIZES, federation
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.data.federation import deal_test, federate


def labelled(train_y: list[int], test_y: list[int], **columns: list) -> Dataset:
    """A data set whose input is the number of the row."""
    x, test_x = np.arange(len(train_y)), np.arange(len(test_y))
    named = {f"{part}_columns": columns.get(part) for part in ("train", "test")}
    arrays = (x[:, None], np.array(train_y), test_x[:, None], np.array(test_y))
    return from_arrays(*arrays, num_classes=4, **named)


def test_pool_gives_each_client_its_own_rows():
    data = federation()
    assert data.num_clients == len(SIZES)
    assert data.sizes.tolist() == list(SIZES)
    for c, part in enumerate(data.parts):
        own = data.train.of(jnp.int32(c))
        assert int(own.size) == len(part)
        batch = own.take(jnp.arange(len(part), dtype=jnp.int32), jnp.ones(len(part)))
        np.testing.assert_array_equal(batch.x, data.train.x[part])
        np.testing.assert_array_equal(batch.y, data.train.y[part])
    assert int(data.train.of(jnp.int32(len(SIZES))).size) == 0, "nobody: an empty place"


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_test_row_is_dealt_once(train: list[int], test: list[int], clients: int, seed: int):
    parts = np.array_split(np.random.default_rng(seed).permutation(len(train)), clients)
    dealt = deal_test(labelled(train, test), parts, seed)
    assert len(dealt) == clients
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(test)))


def test_test_rows_follow_the_labels():
    data = labelled([0, 0, 0, 1, 1, 1], [0] * 30 + [1] * 30)
    one, two = deal_test(data, [np.array([0, 1, 3]), np.array([2, 4, 5])], seed=0)
    assert np.bincount(np.asarray(data.test.y)[one]).tolist() == [20, 10]
    assert np.bincount(np.asarray(data.test.y)[two]).tolist() == [10, 20]


def test_natural_clients_keep_their_own_test_rows():
    columns = {
        "train": {"client": np.array(["b", "a", "b", "a"])},
        "test": {"client": np.array(["a", "b", "a"])},
    }
    data = labelled([0, 1, 2, 3], [0, 0, 1], **columns)
    parts = [np.array([1, 3]), np.array([0, 2])]
    assert [p.tolist() for p in deal_test(data, parts, 0)] == [[0, 2], [1]]


def test_held_out_rows_are_not_trained_on():
    data = labelled([0, 1] * 10, [0, 1])
    split = federate(data, lambda d: [np.arange(12), np.arange(12, 20)], client_test_fraction=0.25)
    for c, size in enumerate((12, 8)):
        train, test = (
            set(np.asarray(pool.x)[np.asarray(pool.rows)[s : s + n]].ravel().tolist())
            for pool in (split.train, split.client_test)
            for s, n in [(int(pool.starts[c]), int(pool.sizes[c]))]
        )
        assert (len(train), len(test)) == (size * 3 // 4, size // 4)
        assert train | test == set(range(12) if c == 0 else range(12, 20))
    assert split.client_test.x is split.train.x, "no copy on the device"


def test_bytes_stay_bytes_and_are_standardised_by_channel():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (50, 3, 3, 2)).astype(np.uint8)
    y = np.arange(50) % 4
    split = federate(from_arrays(x, y, x[:5], y[:5]), lambda d: [np.arange(50)])
    assert split.train.x.dtype == jnp.uint8
    ready = jax.jit(split.prepare)(split.train.x)
    assert ready.dtype == jnp.float32
    np.testing.assert_allclose(ready.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(ready.std((0, 1, 2)), 1, atol=1e-4)


def test_floats_are_left_as_they_are_if_asked():
    x = federation().train.x
    np.testing.assert_array_equal(federation().prepare(x), x)
    assert federation().inputs == "floats, as they are"


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_bad_fraction(fraction: float):
    with pytest.raises(ValueError, match="fraction"):
        federate(labelled([0, 1], [0]), lambda d: [np.arange(2)], client_test_fraction=fraction)
