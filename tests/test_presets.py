"""An experiment, shrunk."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import seven_methods


def test_an_experiment_ends_with_a_table_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds in (1, 2):
        seven_methods.main("digits", methods=["scaffold-I"], seeds=seeds, out=tmp_path, smoke=True)
    row = next(r for r in capsys.readouterr().out.splitlines()[::-1] if r.startswith("| "))
    assert row.startswith("| scaffold-I |")
    assert "nan" not in row
    assert (tmp_path / "digits.png").exists()
