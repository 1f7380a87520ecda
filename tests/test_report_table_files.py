"""Tidy tables come back as they were written, whichever file they are in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.report import table_files

KINDS = ("csv", "parquet")
CELLS = {
    "point": st.integers(-(2**63) + 1, 2**63 - 1),
    "score": st.floats(),
    "method": st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map("x".__add__),
    "nesterov": st.booleans(),
}
ROWS = st.lists(st.fixed_dictionaries({k: st.none() | v for k, v in CELLS.items()}), max_size=6)


def same(one: object, other: object) -> bool:
    """Equal to the last bit, of one kind, and NaN like NaN."""
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return np.float64(one).tobytes() == np.float64(other).tobytes() or both_nan
    return one == other and type(one) is type(other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("kind", KINDS)
@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_a_table_comes_back_as_it_was(folder: Path, kind: str, rows: list) -> None:
    path = table_files.write_table(folder / f"table.{kind}", rows, list(CELLS))
    found = table_files.read_table(path)
    assert len(found) == len(rows)
    for before, after in zip(rows, found, strict=True):
        assert list(after) == list(CELLS)
        assert all(same(before[name], after[name]) for name in CELLS), (before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cell_may_be(tmp_path: Path, kind: str) -> None:
    rows = [
        {"lr": np.float32(0.1), "n": np.int64(3), "mixed": 0.5, "both": 1, "empty": None},
        {"lr": 1, "mixed": "all", "both": 0.25, "late": "here"},
    ]
    one, two = table_files.read_table(table_files.write_table(tmp_path / f"t.{kind}", rows))
    assert one["lr"] == float(np.float32(0.1))
    assert (two["lr"], type(two["lr"])) == (1.0, float)
    assert (one["n"], two["n"]) == (3, None)
    assert (one["mixed"], two["mixed"]) == ("0.5", "all")
    assert (one["both"], two["both"]) == (1.0, 0.25)
    assert (one["late"], two["late"]) == (None, "here")
    assert (one["empty"], two["empty"]) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_table(tmp_path: Path, kind: str) -> None:
    rows = [{"config": n // 2, "round": n, "loss": n / 4} for n in range(6)]
    path = table_files.write_table(tmp_path / f"t.{kind}", rows)
    assert table_files.read_table(path, ["round", "absent"]) == [{"round": n} for n in range(6)]
    found = table_files.read_table(path, ["loss"], {"config": [0, 2]})
    assert [row["loss"] for row in found] == [0.0, 0.25, 1.0, 1.25]
    assert table_files.read_table(path, where={"config": []}) == []
    assert table_files.read_table(table_files.write_table(path, [], ["config", "round"])) == []


def test_not_finite_is_not_empty(tmp_path: Path) -> None:
    path = table_files.write_table(
        tmp_path / "t.csv", [{"loss": math.nan}, {"loss": -math.inf}, {"loss": None}]
    )
    assert path.read_text() == 'loss\nnan\n-inf\n""\n'
    one, two, three = (row["loss"] for row in table_files.read_table(path))
    assert math.isnan(one)
    assert (two, three) == (-math.inf, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_whole_or_not_there(tmp_path: Path, kind: str) -> None:
    path = table_files.write_table(tmp_path / f"t.{kind}", [{"round": 1}])
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"surrogates|unexpected"):
        table_files.write_table(path, [{"round": "\ud800"}])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        table_files.write_table(tmp_path / "t.json", [])
    with pytest.raises(FileNotFoundError):
        table_files.read_table(tmp_path / "absent.csv")
    for name, content in {"t.parquet": b"PAR1", "t.csv": b"\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            table_files.read_table(tmp_path / name)


def test_a_carriage_return_ends_no_line(tmp_path: Path):
    rows = [{"method": "x\r", "n": 1}, {"method": "y", "n": None}]
    assert table_files.read_table(table_files.write_table(tmp_path / "t.csv", rows)) == rows
