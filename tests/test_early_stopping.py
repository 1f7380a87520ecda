"""Runs that end before their last round, and the best state that they keep."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import command
from federations import federation, gap, logistic

import fedjax_kd as fk
from fedjax_kd.engine.early_stopping import best_round, patience_of
from fedjax_kd.runs import folder as run_folder

nan = math.nan


def rows(column: str, *values: float | None) -> list[dict[str, float]]:
    """A row a round; None where nothing was evaluated."""
    return [
        {"round": n, "test_loss": 0.0} | ({} if value is None else {f"judged_{column}": value})
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("patience", "seen", "stops"),
    [
        (fk.Patience(2), rows("accuracy", 0.1, 0.2, 0.2), None),
        (fk.Patience(2), rows("accuracy", 0.1, 0.2, 0.2, 0.1), "than 0.2 of round 1 in 2 eval"),
        (fk.Patience(2), rows("accuracy", 0.1, None, 0.1, None, 0.1), "of round 0 in 2"),
        (fk.Patience(2), rows("accuracy", 0.1, None, None, None, 0.1), None),
        (fk.Patience(1), rows("loss", 3.0, 2.0, 2.5), "no judged_loss better than 2 of round 1"),
        (fk.Patience(1), rows("loss", 3.0, 2.0, 1.5), None),
        (fk.Patience(2, 0.1), rows("accuracy", 0.1, 0.15, 0.19, 0.3), "0.1 of round 0 by more th"),
        (fk.Patience(2, 0.1), rows("accuracy", 0.1, 0.15, 0.25, 0.3), None),
        (fk.Patience(2), rows("loss", 3.0, nan, nan), "than 3 of round 0"),
        (fk.Patience(2), rows("accuracy", 0.1, 0.0, 0.2, 0.1, 0.3), None),
    ],
)
def test_patience_ends_after_so_many_evaluations_without_a_better_one(
    patience: fk.Patience, seen: list[dict[str, float]], stops: str | None
) -> None:
    found = patience.after(seen)
    assert (found is None) if stops is None else (found is not None and stops in found.reason)


def test_the_best_round_is_the_first_of_the_best() -> None:
    assert best_round(rows("accuracy", 0.1, 0.5, 0.5, nan)) == 1
    assert best_round(rows("loss", 3.0, 1.0, None, 0.5, 0.5)) == 3
    assert best_round(rows("loss", nan, nan)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evaluations": 0}, "evaluations is 0, but must be >= 1"),
        ({"evaluations": 1, "min_delta": -0.1}, "min_delta is -0.1, but must be >= 0"),
        ({"evaluations": None, "min_delta": 0.1}, "min_delta is 0.1, but there is no patience"),
    ],
)
def test_a_wrong_patience_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patience_of(**given)


def train(**given: Any) -> fk.Result:
    algorithm = fk.fedavg(logistic(), fk.local_training(client_lr=0.1, batch_size=4))
    how = {"num_rounds": 6, "cohort_size": 3, "eval_every": 2, "chunk": 1}
    return fk.train(algorithm, federation(), **how, **given)


def test_training_in_python_ends_with_its_reason_and_with_the_same_numbers() -> None:
    # A progress bar's `update` returns True, too.
    whole = train(on_block=lambda p: fk.Stop("late") if p.finished == 6 else True)
    assert whole.stopped is None
    assert whole.history[-1]["round"] == 6
    early = train(patience=fk.Patience(2, min_delta=1e9))
    assert early.history == whole.history[:5]
    assert early.stopped is not None
    assert "in 2 evaluations" in early.stopped.reason
    asked = train(on_block=lambda p: fk.Stop("enough") if p.finished >= 4 else None)
    assert asked.stopped == fk.Stop("enough")
    assert gap(asked.state.server.model, early.state.server.model) == 0


RUN = (
    *("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--eval-every", "2"),
    *("--num-rounds", "60", "--patience", "3", "--min-delta", "0.01", "--keep-best"),
    *("--client-schedule", "exponential:factor=0.9", "--server-schedule", "warmup:rounds=3"),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early") / "run"
    assert command("run", "fedavg", *RUN, "--out", str(folder)) == 0
    return folder


def numbers(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


def kept(folder: Path, name: str) -> list[int]:
    return sorted(int(path.name) for path in (folder / name).iterdir())


def test_a_run_stops_early_and_says_why(stopped: Path, capsys: pytest.CaptureFixture) -> None:
    summary, found = run_folder.read_summary(stopped), run_folder.read_rows(stopped)
    assert summary["status"] == "stopped early"
    assert summary["finished_rounds"] == found[-1]["round"] < 60
    waiting = fk.Patience(3, 0.01)
    assert waiting.after(found) == fk.Stop(summary["stopped"])
    assert all(waiting.after(found[:end]) is None for end in range(1, len(found)))
    assert command("resume", str(stopped)) == 0
    assert f"stopped early, after round {len(found) - 1}: {summary['stopped']}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("lost", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_a_killed_run_ends_in_the_same_round(stopped: Path, tmp_path: Path, lost: bool) -> None:
    folder = shutil.copytree(stopped, tmp_path / "killed")
    run_folder.write_json(
        folder / "summary.json", run_folder.read_summary(folder) | {"status": "running"}
    )
    last = kept(folder, "checkpoints")[-1]
    for name in ("checkpoints", "best") if lost else ():
        shutil.rmtree(folder / name / str(last), ignore_errors=True)
    assert command("resume", str(folder), "--quiet") == 0
    assert numbers(folder) == numbers(stopped)
    assert run_folder.read_summary(folder)["status"] == "stopped early"
    assert kept(folder, "best")[-1] == kept(stopped, "best")[-1]
    for best in (True, False):
        again, before = (fk.load_run(f, best=best) for f in (folder, stopped))
        assert gap(again.state.server.model, before.state.server.model) == 0


def test_the_best_state_is_kept_and_evaluated(stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "longer")
    assert command("resume", str(folder), "--num-rounds", "31", "--patience", "0", "--quiet") == 0
    summary = run_folder.read_summary(folder)
    assert summary["status"] == "finished"
    assert summary["finished_rounds"] == 31
    saved = fk.load_run(folder, best=True)
    assert saved.finished == summary["best_round"]
    assert command("evaluate", str(folder), "--best") == 0
    with (folder / "clients-best.csv").open(newline="") as file:
        right = sum(
            float(row["accuracy"]) * float(row["test_examples"])
            for row in csv.DictReader(file)
            if row["accuracy"]
        )
    assert right / 360 == pytest.approx(summary["best_test_accuracy"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "fedavg", "--patience", "0"), "patience is 0, but must be >= 1"),
        (("run", "fedavg", "--min-delta", "0.1"), "there is no patience: give one, too"),
        (
            ("run", "fedavg", "--keep-best", "--rounds-per-dispatch", "20"),
            "give a divisor of eval_every=10",
        ),
        (
            ("sweep", "fedavg", "--grid", "client-lr=0.1,1", "--patience", "3"),
            "patience and keep_best are of single runs",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    args: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command(*args, "--out", str(tmp_path / "run")) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_best_state_says_so(stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "plain")
    shutil.rmtree(folder / "best")
    with pytest.raises(ValueError, match="keeps no best checkpoint: train it with --keep-best"):
        fk.load_run(folder, best=True)
