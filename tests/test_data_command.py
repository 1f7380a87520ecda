"""``fedjax-kd data``: stores written from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commandline import command

from fedjax_kd.data import PathologicalPartitioner, load, open_store, synthetic_clients


def test_pack_divides_like_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "made" / "store"
    wanted = ("--partition", "pathological", "--num-classes-per-partition", "2")
    assert command("data", "pack", *wanted, "--num-clients", "20", "--out", str(out)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("20 clients with 1,437 rows")
    assert shown[-1] == str(out)
    store, data = open_store(out), load("digits")
    split = PathologicalPartitioner(num_partitions=20, num_classes_per_partition=2, seed=0)
    for client, part in enumerate(split(data)):
        np.testing.assert_array_equal(store.rows_of([client]).x, data.train.x[part])
    assert (store.name, store.num_classes, len(store.test[1])) == ("digits", 10, 360)


def test_synthetic_passes_its_options_on(tmp_path: Path) -> None:
    out = tmp_path / "store"
    shape = ("--shape", "4", "4", "3", "--num-classes", "3", "--sigma", "0.5")
    counts = ("--num-clients", "7", "--num-test-rows", "9")
    assert command("data", "synthetic", *counts, *shape, "--seed", "2", "--out", str(out)) == 0
    store = open_store(out)
    same = synthetic_clients(7, seed=2, num_classes=3, sigma=0.5, shape=(4, 4, 3))
    for client, (x, y) in enumerate(same):
        rows = store.rows_of([client])
        np.testing.assert_array_equal(rows.x, x)
        np.testing.assert_array_equal(rows.y, y)
    assert store.test[0].shape == (9, 4, 4, 3)


@pytest.mark.parametrize("kind", ["", "prepare", "pack", "synthetic"])
def test_each_explains_itself(kind: str, capsys: pytest.CaptureFixture) -> None:
    assert command("data", *kind.split(), "--help") == 0
    shown = capsys.readouterr().out
    expected = {
        "": ("prepare", "pack", "synthetic"),
        "prepare": ("--data-dir",),
        "pack": ("--partition", "--alpha", "--num-clients", "--out"),
        "synthetic": ("--num-clients", "--mean-rows", "--sigma", "--shape", "--out"),
    }[kind]
    assert all(word in shown for word in expected)
    assert "--client-test-fraction" not in shown


BAD = {
    "data": "data does one of prepare, pack, synthetic",
    "data packk": "near it: pack",
    "data prepare": "needs a name",
    "data pack": "--out",
    "data pack --out FOLDER": "exists, but a store is written to a new folder",
    "data pack --out FOLDER/a --partition irid": "near it: iid",
    "data pack --out FOLDER/a --dataset digitz": "'digitz'",
    "data synthetic --num-clients 3 --out FOLDER/a --alpha 0": "alpha is 0",
    "data synthetic --num-clients 0 --out FOLDER/a": "num_clients is 0",
    "data synthetic --out FOLDER/a": "--num-clients",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_explained(line: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(*line.replace("FOLDER", str(tmp_path)).split()) == 2
    shown = capsys.readouterr()
    assert BAD[line] in shown.err + shown.out
    assert list(tmp_path.iterdir()) == []
