"""Points by workers of Ray, and points that Optuna proposes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import command

from fedjax_kd.report import table_files
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps import workers

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--quiet")
SWEEP = ("sweep", "fedprox", "fedavg", *SMALL, "--num-rounds", "4", "--eval-every", "2")
GRID = ("--grid", "client-lr=0.03,0.3")


@pytest.mark.thorough
def test_two_workers_find_what_one_process_finds(tmp_path: Path):
    pytest.importorskip("ray")
    by_two, alone = tmp_path / "two", tmp_path / "one"
    sweep = [argument for argument in SWEEP if argument != "fedavg"]
    assert command(*sweep, *GRID, "--workers", "2", "--out", str(by_two)) == 0
    assert command(*sweep, *GRID, "--out", str(alone)) == 0
    assert sorted(p.name for p in by_two.glob("parts/*")) == ["000-0", "000-1"]
    ours, theirs = (
        table_files.read_table(by_two / "points.csv"),
        table_files.read_table(alone / "points.csv"),
    )
    assert [p["status"] for p in ours] == [p["status"] for p in theirs]
    assert [p["score"] for p in ours] == pytest.approx([p["score"] for p in theirs], rel=1e-4)
    assert command("resume", str(by_two), "--quiet") == 0


def test_workers_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    assert command(*SWEEP, *GRID, "--workers", "2", "--out", str(tmp_path / "s")) == 2
    assert "pip install 'fedjax-kd[ray]'" in capsys.readouterr().err


@pytest.mark.thorough
def test_optuna_proposes_and_goes_on(tmp_path: Path):
    pytest.importorskip("optuna")
    search = ("--grid", "client-lr=1e-3:1e1:log", "--grid", "epochs=1:3:lin")
    options = (*SWEEP, *search, "--trials", "4", "--batch", "2")
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert command(*options, "--out", str(whole)) == 0
    study = sweep_runner.read_study(whole)
    assert [s["method"] for s in study.settings] == ["fedprox", "fedprox", "fedavg", "fedavg"] * 2
    assert {type(s["epochs"]) for s in study.settings} == {int}
    assert all(1e-3 <= s["client_lr"] <= 10 for s in study.settings)
    assert len({s["client_lr"] for s in study.settings if s["method"] == "fedavg"}) == 4

    # As if it had been killed after the first batch.
    first = sweep_runner.from_plain(
        sweep_runner.to_plain(study)
        | {"points": sweep_runner.to_plain(study)["points"][:4], "batches": study.batches[:1]}
    )
    again.mkdir()
    sweep_runner.write_study(again, first)
    assert command("resume", str(again), "--quiet") == 0
    assert sweep_runner.read_study(again) == study
    assert (again / "points.csv").read_text() == (whole / "points.csv").read_text()


def test_trials_without_optuna(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("fedjax_kd.sweeps.proposals.find_spec", lambda name: None)
    search = ("--grid", "client-lr=1e-3:1e1:log", "--trials", "4")
    assert command(*SWEEP, *search, "--out", str(tmp_path / "s")) == 2
    assert "pip install 'fedjax-kd[optuna]'" in capsys.readouterr().err
    assert not run_folder.read_rows(tmp_path)
