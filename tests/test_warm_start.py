"""Training that begins with a model that is there already."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from commandline import command
from federations import federation, gap, logistic

import fedjax_kd as fk
from fedjax_kd.runs import folder as run_folder

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--quiet")


def test_a_task_starts_from_a_model_whatever_the_seed() -> None:
    task, other = logistic(), logistic().init(jax.random.key(9))
    algorithm = fk.fedavg(fk.start_from(task, other), fk.local_training())
    s = fk.simulate(algorithm, federation(), num_rounds=1, cohort_size=2, chunk=1, seed=3)
    assert gap(fk.initial_state(s).server.model, other) == 0
    with pytest.raises(TypeError, match="the model to start from must be of the task's network"):
        fk.start_from(logistic(5), other)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "run"
    how = ("--num-rounds", "6", "--eval-every", "2", "--keep-best", "--client-lr", "0.3")
    assert command("run", "scaffold", *SMALL, *how, "--out", str(folder)) == 0
    return folder


def test_a_run_begins_where_another_ended(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "next"
    monkeypatch.chdir(first.parent)
    how = ("--init-from", first.name, "--num-rounds", "1", "--seed", "0")
    assert command("run", "fedadam", *SMALL, *how, "--out", str(folder)) == 0
    written = json.loads((folder / "config.json").read_text())["training"]["init_from"]
    assert written == str(first / "checkpoints" / "6")
    before, after = run_folder.read_rows(first)[-1], run_folder.read_rows(folder)[0]
    for name in ("test_loss", "test_accuracy"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    assert fk.load_run(folder).finished == 1


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("nowhere", "", "where no checkpoint is: give the path of a run folder"),
        ("checkpoints/5", "", "There is no checkpoint"),
        ("", "--model mlp", "holds no model of this network: give the same model"),
        ("", "--dataset wide", "the model to start from must be of the task's network"),
    ],
)
def test_what_does_not_fit_is_refused(
    first: Path, tmp_path: Path, source: str, more: str, message: str
) -> None:
    x, y = np.zeros((40, 7), np.float32), np.arange(40) % 3
    np.savez(tmp_path / "wide.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    where = ("--data-dir", str(tmp_path), "--partition", "iid", "--out", str(tmp_path / "run"))
    given = (*SMALL, *where, *more.split(), "--init-from", str(first / source))
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        assert command("run", "fedavg", *given) == 2
    assert message in error.getvalue()
