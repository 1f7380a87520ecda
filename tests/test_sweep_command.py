"""`fedjax-kd sweep`: its numbers, what it writes, how it is stopped and goes on, wrong input."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commandline import START, command, wait_for

from fedjax_kd.commands import _announce
from fedjax_kd.report import table_files
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps import shard

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--quiet")
SWEEP = ("sweep", "fedadam", "fedavg", *SMALL, "--seeds", "2", "--seed", "3", "--eval-every", "4")
GRID = ("--grid", "server-lr=0.01:1:log3", "--grid", "client-lr=0.03,0.3")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two methods that nothing happens to."""
    folder = tmp_path_factory.mktemp("sweep") / "s"
    assert command(*SWEEP, *GRID, "--num-rounds", "8", "--out", str(folder)) == 0
    return folder


def test_points_and_tables(done: Path):
    points = table_files.read_table(done / "points.csv")
    assert len(points) == 2 * 6 * 2
    assert {p["seed"] for p in points} == {3, 4}
    assert {(p["status"], p["finished_rounds"]) for p in points} == {("finished", 8)}
    results = table_files.read_table(done / "results.csv")
    assert len(results) == 24 * 9
    assert table_files.read_table(done / "results.parquet") == results
    last = {r["point"]: r["test_accuracy"] for r in results if r["round"] == 8}
    assert [last[p["point"]] for p in points] == [p["score"] for p in points]
    about = json.loads((done / "sweep.json").read_text())
    assert about["parameters"] == ["method", "server_lr", "client_lr"]
    assert about["points"][2]["parameters"] == {
        "method": "fedadam",
        "server_lr": 0.01,
        "client_lr": 0.3,
    }
    assert (done / "partition-seed3.png").stat().st_size > 1000
    assert not list(done.glob("parts/*/checkpoints"))


@pytest.mark.parametrize(
    ("number", "option"),
    [(7, "--eta"), pytest.param(21, "--server-lr", marks=pytest.mark.thorough)],
)
def test_a_point_is_a_single_run(done: Path, tmp_path: Path, number: int, option: str):
    point = table_files.read_table(done / "points.csv")[number]
    rates = [option, str(point["server_lr"]), "--client-lr", str(point["client_lr"])]
    options = [*SMALL, "--num-rounds", "8", "--eval-every", "4", "--seed", str(point["seed"])]
    run = tmp_path / "run"
    assert command("run", str(point["method"]), *options, *rates, "--out", str(run)) == 0
    ours = [r for r in table_files.read_table(done / "results.csv") if r["point"] == point["point"]]
    for row, own in zip(run_folder.read_rows(run), ours, strict=True):
        known = {k: v for k, v in row.items() if k not in ("seconds", "steps_computed")}
        assert {k: own[k] for k in known} == pytest.approx(known, rel=1e-4, abs=1e-5)


def test_the_best_is_shown(done: Path, capsys: pytest.CaptureFixture):
    assert command("resume", str(done)) == 0  # nothing is left to do
    shown = capsys.readouterr().out
    points = table_files.read_table(done / "points.csv")
    mean = {n: sum(p["score"] for p in points if p["config"] == n) / 2 for n in range(12)}
    assert f"{max(mean[n] for n in range(6)):.4f}" in shown
    assert f"{max(mean[n] for n in range(6, 12)):.4f}" in shown
    assert shown.strip().endswith(str(done))


def numbers(folder: Path) -> dict[str, list[list[str]]]:
    """What every part has written."""
    files = sorted(folder.glob("parts/*/metrics.csv"))
    return {file.parent.name: list(csv.reader(file.open(newline=""))) for file in files}


LONG = (
    *("sweep", "fedprox", *SMALL, "--seeds", "2", "--grid", "mu=0,0.1,1", "--halving", "3"),
    *("--first-rung", "40", "--num-rounds", "240", "--eval-every", "2"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with halving that nothing happens to."""
    folder = tmp_path_factory.mktemp("alone") / "s"
    assert command(*LONG, "--out", str(folder)) == 0
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("ask", "after", "code"),
    [(signal.SIGTERM, 20, 130), pytest.param(signal.SIGKILL, 90, -9, marks=pytest.mark.thorough)],
)
def test_stopped_and_resumed_is_uninterrupted(
    alone: Path, tmp_path: Path, ask: int, after: int, code: int
):
    folder = tmp_path / "s"
    process = subprocess.Popen(
        [*START, *LONG, "--out", str(folder)], stderr=subprocess.PIPE, text=True
    )
    rows = folder / "parts" / "000-0" / "metrics.csv"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 6 * after // 4, process)
    process.send_signal(ask)
    process.communicate(timeout=120)
    assert process.returncode == code
    if code > 0:
        assert "running" in {p["status"] for p in table_files.read_table(folder / "points.csv")}
    assert command("resume", str(folder), "--quiet") == 0
    assert numbers(folder) == numbers(alone)
    assert (folder / "points.csv").read_text() == (alone / "points.csv").read_text()


def test_halving(alone: Path):
    points = table_files.read_table(alone / "points.csv")
    assert sorted(p["finished_rounds"] for p in points) == [40, 40, 40, 40, 240, 240]
    assert sum(p["status"] == "stopped" for p in points) == 4
    kept = next(p["config"] for p in points if p["status"] == "finished")
    at = [r for r in table_files.read_table(alone / "results.csv") if r["round"] == 40]
    mean = {n: sum(r["test_accuracy"] for r in at if r["config"] == n) for n in range(3)}
    assert mean[kept] == max(mean.values())


def test_finished_parts_are_not_trained_again(done: Path, tmp_path: Path, monkeypatch: Any):
    folder = tmp_path / "s"
    shutil.copytree(done, folder)
    shutil.rmtree(folder / "parts" / "001-0")
    trained = []
    family_for = shard.family_for
    monkeypatch.setattr(
        shard,
        "family_for",
        lambda study, *args: trained.append(args[0]) or family_for(study, *args),
    )
    assert command("resume", str(folder), "--quiet") == 0
    assert trained == [(6, 7, 8, 9, 10, 11)]
    assert (folder / "points.csv").read_text() == (done / "points.csv").read_text()


@pytest.mark.thorough
def test_structural_values_tables_and_targets(tmp_path: Path):
    rows = tmp_path / "t.json"
    settings = [
        {"batch_size": 5, "client_lr": 0.1},
        {"batch_size": 10, "client_lr": 0.1, "alpha": 5},
        {"model": "mlp", "client_lr": 0.2},
        {"batch_size": 5, "client_lr": 1},
    ]
    rows.write_text(json.dumps(settings))
    folder = tmp_path / "s"
    options = (*SMALL, "--num-rounds", "4", "--table", str(rows), "--reach", "0.99")
    assert command("sweep", "fedavg", *options, "--out", str(folder)) == 0
    study = sweep_runner.read_study(folder)
    assert [len(group[0].configs) for group in sweep_runner.shards(folder, study)] == [2, 1, 1]
    assert study.config(1, 0).data.partition_options["alpha"] == 5.0
    assert study.config(2, 0).model == "mlp"
    points = table_files.read_table(folder / "points.csv")
    assert [p["batch_size"] for p in points] == [5, 10, None, 5]
    assert study.target == 0.99


def test_random_draws(tmp_path: Path):
    folder = tmp_path / "s"
    options = ("--grid", "client-lr=1e-3:1:log", "weighting=examples,uniform", "--samples", "3")
    small = (*SMALL, "--num-rounds", "2", "--eval-every", "2")
    assert command("sweep", "fedavg", *small, *options, "--out", str(folder)) == 0
    drawn = sweep_runner.read_study(folder).settings
    assert len({s["client_lr"] for s in drawn}) == 3
    assert {s["weighting"] for s in drawn} <= {"examples", "uniform"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((), "varies nothing"),
        (("--grid", "clientlr=0.1"), "There is no parameter 'clientlr' of fedadam to vary; near"),
        (("--grid", "client-lr=fast,slow"), "client_lr is 'fast' in this sweep, but must be a num"),
        (("--grid", "epochs=1.5"), "epochs is '1.5' in this sweep, but must be a whole number"),
        (("--grid", "weighting=votes"), "must be one of 'examples', 'uniform'"),
        (("--grid", "client-lr="), "has no value"),
        (("--grid", "client-lr=1:0.1:log3"), "must ascend"),
        (("--grid", "client-lr=nan"), "must be finite"),
        (("--grid", "client-lr=0.1,0.10"), "twice"),
        (("--grid", "client-lr=0.1", "--grid", "client-lr=0.2"), "client_lr twice"),
        (("--grid", "client-lr"), "has no '='"),
        (("--grid", "client-lr=1e-3:1:log"), "has no number of points"),
        (("--grid", "seed=1,2"), "--seeds"),
        (("--grid", "num-rounds=1,2"), "There is no parameter 'num_rounds'"),
        (("--grid", "client-lr=0.1", "--seeds", "0"), "seeds is 0"),
        (("--grid", "client-lr=0.1", "--last", "0"), "last is 0"),
        (("--grid", "client-lr=0.1", "--halving", "1"), "halving is 1, but must be >= 2"),
        (("--grid", "client-lr=0.1", "--first-rung", "3"), "without halving"),
        (("--grid", "client-lr=0.1", "--samples", "3", "--trials", "3"), "one of them"),
        (("--grid", "client-lr=0.1", "--table", "t.csv"), "A table says all"),
        (("--table", "missing.csv"), "cannot be read"),
        (("--grid", "client-lr=0.1", "--workers", "0"), "workers is 0"),
        (("--grid", "client-lr=0.1", "--ray-address", "auto"), "without workers"),
        (("--grid", "client-lr=0.1:1:log", "--trials", "0"), "trials is 0, but must be >= 1"),
        (("--grid", "client-lr=0.1", "--metric", "accuracy"), "metric"),
    ],
)
def test_wrong_input(given: tuple[str, ...], says: str, capsys: Any, tmp_path: Path):
    out = ("--out", str(tmp_path / "s"), *SMALL, "--num-rounds", "2")
    assert command("sweep", "fedadam", *given, *out) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()


def test_no_method_and_no_sweep(capsys: Any, tmp_path: Path):
    assert command("sweep", "--grid", "client-lr=0.1") == 2
    assert "needs a method" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text("{}")
    assert command("resume", str(tmp_path)) == 2
    assert "format" in capsys.readouterr().err


def test_more_points_than_meant(monkeypatch: Any, capsys: Any, tmp_path: Path):
    monkeypatch.setattr(_announce, "MANY", 3)
    options = (*SMALL, "--num-rounds", "2", "--out", str(tmp_path / "s"))
    assert command("sweep", "fedavg", "--grid", "client-lr=1e-3:1:log4", *options) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "Warning: 4 configurations x 1 seeds = 4 points" in told
    assert "operations, at least" in told
    assert "smaller grid" in told


@pytest.mark.parametrize("name", ["plot", "evaluate"])
def test_a_sweep_is_no_run(done: Path, capsys: Any, name: str):
    assert command(name, str(done)) == 2
    assert "is a sweep" in capsys.readouterr().err
