"""Statistics and pictures of partitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled import LABELS, labelled

from fedjax_kd.data import IidPartitioner, from_arrays, load
from fedjax_kd.data.rows import by_owner
from fedjax_kd.report.partition import describe, draw_partition, label_table

GOLDEN = Path(__file__).parent / "golden" / "partition.npz"


@pytest.mark.parametrize("case", ["alpha0p1", "alpha0p5", "alpha1p0", "shard2"])
def test_counts_of_published_partitions(case):
    golden = np.load(GOLDEN)
    labels, owner = golden["in_targets"], golden[f"out_owner_{case}"]
    data = from_arrays(np.zeros((len(labels), 1)), labels, np.zeros((1, 1)), labels[:1])
    counts = golden[f"out_counts_{case}"]
    parts = by_owner(np.arange(len(owner)), owner, len(counts))
    assert np.array_equal(label_table(data, parts), counts)
    numbers = describe(data, parts)
    assert (numbers.clients, numbers.rows) == (len(counts), counts.sum())
    assert (numbers.smallest, numbers.largest) == (counts.sum(1).min(), counts.sum(1).max())
    assert numbers.labels_per_client == pytest.approx((counts > 0).sum() / len(counts))


def test_label_skew_at_its_ends():
    data = labelled()
    one_label_each = by_owner(np.arange(600), data.train.y, LABELS)
    assert describe(data, one_label_each).label_skew == pytest.approx(0.9)
    assert describe(data, [np.arange(300), np.arange(300, 600)]).label_skew == pytest.approx(0)
    with pytest.raises(ValueError, match="hold no row"):
        describe(data, [])


@pytest.mark.parametrize("clients", [1, 12, 60])
@pytest.mark.parametrize("labels", [10, 40])
def test_pictures(tmp_path, clients, labels):
    data = labelled(labels=labels)
    path = draw_partition(
        data, IidPartitioner(clients)(data), tmp_path / "split.png", title="a title"
    )
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("clients", [6, 60])
@pytest.mark.parametrize("name", ["diabetes", "digits_bits", "digits_strokes", "digits_unlabelled"])
def test_partitions_of_every_problem_are_described(name: str, clients: int, tmp_path: Path) -> None:
    data = load(name)
    parts = IidPartitioner(clients)(data)
    numbers = describe(data, parts)
    assert (numbers.clients, numbers.rows) == (clients, data.train.num_rows)
    counted = name in ("digits_bits", "digits_strokes")
    assert np.isfinite(numbers.label_skew) == counted
    if counted:
        totals = label_table(data, parts).sum(axis=0)
        held = data.train.y.sum(axis=0) if name == "digits_bits" else np.bincount(data.train.y.flat)
        np.testing.assert_array_equal(totals, held)
    picture = draw_partition(data, parts, tmp_path / "split.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
