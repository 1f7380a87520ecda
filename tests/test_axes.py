"""What a sweep tries, from texts, ranges and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.sweeps.axes import Range, axis, grid, sample, table

quick = settings(max_examples=40, deadline=None)


def test_half_decades():
    assert axis("1e-3:1e1:log9")[::2] == [0.001, 0.01, 0.1, 1.0, 10.0]
    assert axis("1e-3:1e1:log9")[1] == pytest.approx(10**-2.5)
    assert axis("0:1:lin3") == [0.0, 0.5, 1.0]
    assert axis("1e-3:1e1:log") == Range(0.001, 10.0)
    assert axis(" 0.1, none ,sgd") == ["0.1", "none", "sgd"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no value"),
        (",,", "no value"),
        ("1:2", "no range"),
        ("a:b:log3", "no range"),
        ("1:nan:log3", "no range"),
        ("1:2:exp3", "no range"),
        ("2:1:log3", "must ascend"),
        ("0:1:log3", "above 0"),
        ("1:2:lin1", "needs 2"),
    ],
)
def test_wrong_axes(text: str, says: str):
    with pytest.raises(ValueError, match=says):
        axis(text)


@quick
@given(st.floats(1e-6, 1e2), st.floats(1.01, 1e4), st.integers(2, 20), st.booleans())
def test_points_of_a_range_ascend_between_its_ends(
    low: float, factor: float, count: int, log: bool
):
    points = Range(low, low * factor, log).points(count)
    assert points == sorted(points)
    assert len(points) == count
    assert points[0] == pytest.approx(low)
    assert points[-1] == pytest.approx(low * factor)


def test_grids():
    assert len(grid(a=[1, 2, 3], b=["x", "y"])) == 6
    assert grid() == [{}]
    with pytest.raises(ValueError, match="no value for b"):
        grid(a=[1], b=[])
    with pytest.raises(ValueError, match="twice"):
        grid(a=[1, 1])


def test_draws_are_reproducible_and_inside():
    axes = {"lr": Range(1e-3, 10.0), "mu": Range(0.0, 1.0, log=False), "opt": ["sgd", "adam"]}
    drawn = sample(axes, 200, seed=3)
    assert drawn == sample(axes, 200, seed=3) != sample(axes, 200, seed=4)
    assert all(1e-3 <= s["lr"] <= 10 and 0 <= s["mu"] <= 1 for s in drawn)
    assert 60 < sum(s["lr"] < 0.1 for s in drawn) < 140  # half of them, by the logarithm
    assert {s["opt"] for s in drawn} == {"sgd", "adam"}
    with pytest.raises(ValueError, match="count is 0, but must be >= 1"):
        sample(axes, 0)
    with pytest.raises(ValueError, match="no value to draw"):
        sample({"a": []}, 3)


def test_tables(tmp_path: Path):
    rows = tmp_path / "t.csv"
    rows.write_text("client-lr,method\n0.1,fedavg\n,fedprox\n")
    assert table(rows) == [{"client_lr": "0.1", "method": "fedavg"}, {"method": "fedprox"}]
    objects = tmp_path / "t.json"
    objects.write_text(json.dumps([{"hidden": [64, 32]}, {"hidden": [8]}]))
    assert table(objects)[0] == {"hidden": [64, 32]}


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1,2,3\n"])
def test_wrong_tables(tmp_path: Path, text: str):
    rows = tmp_path / "t.csv"
    rows.write_text(text)
    with pytest.raises(ValueError, match="table"):
        table(rows)
    with pytest.raises(ValueError, match="cannot be read"):
        table(tmp_path / "missing.csv")
