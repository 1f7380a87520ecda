"""Wrappers on the command line: a run, its folder, resumption, sweeps, descriptions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commandline import command

from fedjax_kd.report import table_files
from fedjax_kd.runs import folder as run_folder

SMALL = (
    *("--model", "logistic", "--num-clients", "10"),
    *("--cohort-size", "4", "--chunk", "2", "--quiet"),
)
SPARSE = ("--with", "top_k:keep=0.25", "ema:beta=0.5")


def numbers(folder: Path) -> list[list[str]]:
    """metrics.csv without its seconds."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight rounds with wrappers."""
    folder = tmp_path_factory.mktemp("wrapped") / "whole"
    args = ("run", "scaffold", *SMALL, *SPARSE, "--num-rounds", "8", "--eval-every", "4")
    assert command(*args, "--out", str(folder)) == 0
    return folder


def test_wrappers_stand_in_the_configuration(whole: Path):
    written = json.loads((whole / "config.json").read_text())
    assert written["wrappers"] == {"top_k": {"keep": 0.25}, "ema": {"beta": 0.5}}
    assert run_folder.read_config(whole).wrappers == written["wrappers"]
    rows = run_folder.read_rows(whole)[1:]
    both = 2 * (64 * 10 + 10)  # numbers of a model and of a control variate
    for row in rows:  # four clients; of equal entries at the threshold none is sent
        assert row["bytes_up"] % 8 == 0
        assert 0.9 < row["bytes_up"] / (4 * 8 * both / 4) <= 1
    assert all(row["bytes_down"] == 4 * 4 * both for row in rows)


def test_a_wrapped_run_resumes_to_the_same_numbers(whole: Path, tmp_path: Path):
    args = ("run", "scaffold", *SMALL, *SPARSE, "--num-rounds", "4", "--eval-every", "4")
    assert command(*args, "--out", str(tmp_path / "run")) == 0
    assert command("resume", str(tmp_path / "run"), "--num-rounds", "8", "--quiet") == 0
    assert numbers(tmp_path / "run") == numbers(whole)
    assert command("evaluate", str(tmp_path / "run")) == 0


def test_options_of_wrappers_are_swept(whole: Path, tmp_path: Path):
    """They are arguments of one program, and a point is the run with these options."""
    args = ("sweep", "scaffold", *SMALL, "--with", "top_k", "ema:beta=0.5")
    args = (*args, "--num-rounds", "8", "--eval-every", "4", "--grid", "top_k.keep=0.25,1.0")
    assert command(*args, "--out", str(tmp_path / "sweep")) == 0
    points = table_files.read_table(tmp_path / "sweep" / "points.csv")
    assert [point["top_k.keep"] for point in points] == [0.25, 1.0]
    assert len(list((tmp_path / "sweep" / "parts").iterdir())) == 1
    single = run_folder.read_rows(whole)[-1]
    assert points[0]["final_test_loss"] == pytest.approx(
        single["test_loss"], rel=3e-3
    )  # entries near the threshold change places
    assert points[1]["final_test_loss"] != pytest.approx(single["test_loss"], rel=3e-2)


def test_descriptions(capsys: pytest.CaptureFixture):
    assert command("describe", "top_k") == 0
    assert "Gradient dropping with residuals" in capsys.readouterr().out
    assert command("describe", "scaffold", "--with", "top_k:keep=0.1") == 0
    shown = capsys.readouterr().out
    assert "extra.base.params['head']['kernel'] float32[64,10]" in shown
    assert "at most; a run counts what is sent" in shown
    assert command("describe", "fedbn") == 0
    assert "digits, with resnet8" in capsys.readouterr().out
    assert command("list", "wrappers") == 0
    assert "Krum" in capsys.readouterr().out


WRONG = [
    (("--with", "nosuch"), "There is no wrapper 'nosuch'"),
    (("--with", "top_k:keep=2"), r"keep is 2.0, but must be in (0, 1]"),
    (("--with", "top_k:keep"), "'keep' in the wrapper 'top_k:keep' has no value"),
    (("--with", "top_k:keep=0.1,keep=0.2"), "names keep twice"),
    (("--with", "median", "median"), "The wrapper median is named twice"),
    (("--with", "median", "--models", "logistic", "mlp"), "go around one algorithm"),
]


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_wrong_wrappers_are_refused(
    args: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    models = () if "--models" in args else ("--model", "logistic")
    chosen = ("run", "feddf", "--public", "holdout", *models, *args)
    assert command(*chosen, "--out", str(tmp_path / "run")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
