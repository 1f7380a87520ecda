"""A user's own division among clients: what is accepted, what is refused, in which words."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_kd as fk
from fedjax_kd.data import pack
from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.data.dealing import deal_test
from fedjax_kd.data.split import parts_of

ROWS = 6
MASK = np.array([True, False, False, True, False, False])


def dataset(**columns: Any) -> Dataset:
    x, y = np.arange(ROWS)[:, None] + 0.5, np.arange(ROWS) % 2
    held = {f"{part}_columns": columns.get(part) for part in ("train", "test")}
    return from_arrays(x, y, x[:4], y[:4], **held)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ([[0, 3], [1, 2]], [[0, 3], [1, 2]]),
        ((range(2), range(2, 6)), [[0, 1], [2, 3, 4, 5]]),
        ([MASK, ~MASK], [[0, 3], [1, 2, 4, 5]]),
        (np.stack([MASK, ~MASK]), [[0, 3], [1, 2, 4, 5]]),
        ([MASK.tolist(), [1]], [[0, 3], [1]]),
        (np.array([[5, 4], [1, 0]], np.uint8), [[5, 4], [1, 0]]),
        ({"ann": [2], "bob": [4, 5]}, [[2], [4, 5]]),
        ([[], [3], np.zeros(0)], [[], [3], []]),
        ((rows for rows in ([1], [2])), [[1], [2]]),
    ],
)
def test_what_is_meant_is_accepted(given: Any, rows: list[list[int]]) -> None:
    made = fk.federate(dataset(), lambda data: given)
    assert [part.tolist() for part in made.parts] == rows
    assert made.sizes.tolist() == [len(part) for part in rows]
    for client, part in enumerate(rows):
        own = made.train.of(jnp.int32(client))
        places = jnp.arange(len(part), dtype=jnp.int32)
        x = own.take(places, jnp.ones(len(part))).x if part else np.zeros((0, 1))
        np.testing.assert_array_equal(np.asarray(x)[:, 0], np.array(part) + 0.5)


def test_the_list_itself_is_a_division(tmp_path: Path) -> None:
    given = [MASK, [1, 2]]
    assert fk.federate(dataset(), given).sizes.tolist() == [2, 2]
    store = pack(tmp_path / "s", dataset(), given)
    assert store.rows_of([1]).x[:, 0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([[0, 1], [2, 6]], ValueError, "Client 1 has row 6, but .* from 0 to 5"),
        ([[0, -1]], ValueError, "Client 0 has row -1, but"),
        ([[0, 1], [2, 3, 2]], ValueError, "Client 1 has row 2 2 times"),
        ([MASK.astype(int)], ValueError, r"row 0 4 times.*\.astype\(bool\)"),
        ([MASK[:4]], ValueError, "a mask of 4 rows, but there are 6 training rows"),
        ([[0.0, 1.0]], TypeError, r"rows of client 0 are float64.*\.astype\(int\)"),
        ([["a"]], TypeError, "rows of client 0 are <U1"),
        (np.arange(6) % 2, TypeError, r"Client 0 has one number.*flatnonzero\(owner == c\)"),
        ([[[0, 1], [2, 3]]], TypeError, r"Client 0 has an array \[2, 2\]"),
        ([[[0, 1], [2]]], TypeError, "Client 0 has lists of different lengths"),
        ([], ValueError, "0 clients with no row together"),
        ([[], []], ValueError, "2 clients with no row together"),
        (None, TypeError, "is a NoneType, but must hold, for each client"),
        (3, TypeError, "is a int, but must hold"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fk.federate(dataset(), lambda data: given)


def test_rows_of_several_clients_are_told() -> None:
    with pytest.warns(UserWarning, match="2 training rows .* such as row 1 to clients 0 and 2"):
        parts = parts_of([[0, 1, 2], [5], [1, 2]], dataset())
    assert [len(part) for part in parts] == [3, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts_of([[0], [1]], dataset())


def test_every_partitioner_gives_what_is_accepted() -> None:
    data = fk.load("digits")
    for split in (fk.IidPartitioner(7), fk.DirichletPartitioner(7, 0.1), fk.ShardPartitioner(7)):
        for a, b in zip(split(data), parts_of(split, data), strict=True):
            np.testing.assert_array_equal(a, b)


WRITERS = np.array([30, 10, 30, 20, 10, 10])  # of the training rows


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([10, 20, 30, 10], [[0, 3], [1], [2]]),
        ([10, 30, 30, 10], [[0, 3], [], [1, 2]]),  # writer 20 has no test rows
        ([30, 40, 40, 40], [[], [], [0]]),  # writer 40 has no training rows
    ],
)
def test_natural_clients_keep_their_own_test_rows(written: list[int], expected: list) -> None:
    data = dataset(train={"client": WRITERS}, test={"client": np.array(written)})
    made = fk.federate(data, fk.NaturalIdPartitioner())
    dealt = deal_test(data, made.parts, 0)
    assert [part.tolist() for part in dealt] == expected
    assert made.client_test.sizes.tolist() == [len(part) for part in expected]


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ([40, 50, 60, 70], None),  # test writers are all new
        ([10, 20, 30, 10], [[0, 1], [2, 3, 4, 5]]),  # clients are not writers
    ],
)
def test_other_clients_get_test_rows_by_class(written: list[int], parts: Any) -> None:
    data = dataset(train={"client": WRITERS}, test={"client": np.array(written)})
    split = parts or fk.NaturalIdPartitioner()(data)
    dealt = deal_test(data, split, 0)
    assert sorted(np.concatenate(dealt).tolist()) == [0, 1, 2, 3]


def test_an_empty_client_among_writers_has_no_test_rows() -> None:
    data = dataset(train={"client": WRITERS}, test={"client": np.array([10, 20, 30, 10])})
    parts = [np.array([1, 4, 5]), np.zeros(0, int), np.array([0, 2])]
    assert [part.tolist() for part in deal_test(data, parts, 0)] == [[0, 3], [], [2]]
