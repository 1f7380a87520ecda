"""Some of the clients that a data set names, and their names in what is written of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import command

from fedjax_kd.data import Dataset, from_arrays
from fedjax_kd.data.federation import federate
from fedjax_kd.data.natural import NaturalIdPartitioner, ids_in_file
from fedjax_kd.runs import folder as run_folder

WRITERS = np.array(["b", "a", "c,d", "b", "a", "b", "e"])


def written(names: np.ndarray = WRITERS) -> Dataset:
    """A row a name."""
    rows = len(names)
    x = np.arange(rows, dtype=np.float32)[:, None]
    y = np.arange(rows) % 2
    columns = {"client": names}
    return from_arrays(x, y, x, y, train_columns=columns, test_columns=columns)


def chosen(names: np.ndarray = WRITERS, **given: Any) -> list[list[int]]:
    return [part.tolist() for part in NaturalIdPartitioner(**given)(written(names))]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [[1, 4], [0, 3, 5], [2], [6]]),
        ({"clients": "e, b"}, [[0, 3, 5], [6]]),
        ({"clients": ["b"]}, [[0, 3, 5]]),
        ({"clients": '["c,d", "a"]'}, [[1, 4], [2]]),
        ({"max_clients": 2}, [[1, 4], [0, 3, 5]]),
        ({"max_clients": 2, "min_partition_size": 3}, [[0, 3, 5]]),
        ({"clients": "a,b,e", "max_clients": 1}, [[1, 4]]),
        ({"max_clients": 99}, [[1, 4], [0, 3, 5], [2], [6]]),
    ],
)
def test_named_clients_keep_their_rows(given: dict[str, Any], expected: list[list[int]]) -> None:
    assert chosen(**given) == expected


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (np.array([7, 3, 3]), "3"),
        (np.array([7, 3, 3]), [np.int64(3)]),
        (np.array([b"7", b"3", b"3"]), "3"),
    ],
)
def test_ids_may_be_numbers_or_bytes(names: np.ndarray, given: Any) -> None:
    assert chosen(names, clients=given) == [[1, 2]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clients": "a,zz"}, "clients names 'zz', but the column 'client' has no such client"),
        ({"clients": ""}, "clients names nobody, .* There are 4: 'a', 'b', 'c,d', 'e'"),
        ({"clients": "[1"}, "which is no JSON list"),
        ({"clients": "a,e", "min_partition_size": 2}, "names 'e', with fewer rows than min_part"),
        ({"max_clients": 0}, "max_clients is 0, but must be >= 1"),
    ],
)
def test_clients_that_are_not_there_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(**given)


def test_many_unknown_ids_are_not_all_named() -> None:
    with pytest.raises(ValueError, match="'n4' and 5 more, but"):
        chosen(clients=[f"n{number}" for number in range(10)])


def test_a_file_names_clients(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("b\n e \n\n")
    (tmp_path / "list.json").write_text('["c,d", 3]')
    assert ids_in_file(str(tmp_path / "lines.txt")) == '["b", "e"]'
    assert ids_in_file(str(tmp_path / "list.json")) == '["c,d", "3"]'
    assert ids_in_file("b,e") == "b,e"
    assert ids_in_file(None) is None


def test_a_federation_knows_the_names_of_its_clients() -> None:
    assert federate(written(), NaturalIdPartitioner()).client_ids == ("a", "b", "c,d", "e")
    assert federate(written(), lambda data: [np.arange(7)]).client_ids is None
    held_out = federate(written(), NaturalIdPartitioner(clients="b"), client_test_fraction=0.5)
    assert held_out.client_ids == ("b",)


def test_a_run_of_some_clients_writes_their_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    writers = np.repeat(["w1", "w2", "w3", "w4"], 10)
    arrays = {"train_x": x, "train_y": y, "train_client": writers}
    arrays |= {"test_x": x, "test_y": y, "test_client": writers}
    np.savez(tmp_path / "notes.npz", **arrays)
    (tmp_path / "some.txt").write_text("w3\nw1\n")
    folder = tmp_path / "run"
    code = command(
        *("run", "fedavg", "--dataset", "notes", "--data-dir", str(tmp_path), "--quiet"),
        *("--partition", "natural", "--clients", str(tmp_path / "some.txt")),
        *("--model", "logistic", "--num-rounds", "1", "--cohort-size", "2", "--out", str(folder)),
    )
    assert code == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["partition_options"]["clients"] == '["w3", "w1"]'
    (tmp_path / "some.txt").unlink()
    assert command("evaluate", str(folder)) == 0
    with (folder / "clients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["client"], row["id"], row["train_examples"]) for row in rows] == [
        ("0", "w1", "10"),
        ("1", "w3", "10"),
    ]
    assert run_folder.read_rows(folder)[-1]["clients"] == 2
