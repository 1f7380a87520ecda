"""An experiment, shrunk, from its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from experiments import personalisation, seven_methods


@pytest.mark.thorough
def test_an_experiment_ends_with_a_table_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--methods", "scaffold-I", "--out", str(tmp_path), "--smoke"]
    for seeds in ("1", "2"):
        tyro.cli(seven_methods.main, args=["digits", *options, "--seeds", seeds])
    row = next(r for r in capsys.readouterr().out.splitlines()[::-1] if r.startswith("| "))
    assert row.startswith("| scaffold-I |")
    assert "nan" not in row
    assert (tmp_path / "digits.png").exists()


def test_a_study_of_data_says_that_it_needs_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="give the folder that has them with --data-dir"):
        tyro.cli(personalisation.main, args=["domains"])
    with pytest.raises(SystemExit):
        tyro.cli(personalisation.main, args=["domains", "--seed", "1"])
    assert "--seeds" in capsys.readouterr().err
