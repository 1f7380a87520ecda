"""Accuracy class by class in a run, and what it has forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.cli import main
from fedjax_kd.data import load
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.problems import TOKENS
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.train import class_accuracies


def test_each_class_is_told_of_and_what_was_forgotten(tmp_path: Path):
    words = "fedavg --num-clients 5 --cohort-size 2 --num-rounds 6 --eval-every 2 --per-class"
    with pytest.raises(SystemExit) as exit:
        main(["run", *words.split(), "--out", str(tmp_path / "run"), "--quiet"])
    assert exit.value.code == 0
    rows = [row for row in run_folder.read_rows(tmp_path / "run") if "test_accuracy" in row]
    accuracy = class_accuracies(rows)
    assert accuracy.shape == (4, 10)
    shares = np.bincount(load("digits").test.y) / 360
    for row, classes in zip(rows, accuracy, strict=True):
        assert row["test_accuracy"] == pytest.approx(classes @ shares, abs=1e-5)
    lost = (accuracy[:-1].max(0) - accuracy[-1]).mean()
    assert run_folder.read_summary(tmp_path / "run")["final_forgetting"] == pytest.approx(
        lost, abs=1e-5
    )


def test_classes_of_sequences_are_not_told_apart():
    data = federation()
    y = jnp.zeros((*data.test.y.shape, 3), jnp.int32)
    sequences = replace(data, test=data.test._replace(y=y), problem=TOKENS)
    with pytest.raises(ValueError, match="per_class needs one class"):
        simulate(fedavg(logistic(), local_training()), sequences, num_rounds=1, per_class=True)


@pytest.mark.thorough
def test_own_models_stand_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = "fedavg standalone --num-clients 5 --cohort-size 5 --num-rounds 4 --eval-every 4"
    with pytest.raises(SystemExit) as exit:
        main(["run", *words.split(), "--out", str(tmp_path), "--quiet"])
    assert exit.value.code == 0
    assert "own models" in capsys.readouterr().out
    summary = run_folder.read_summary(tmp_path / "standalone")
    last = run_folder.read_rows(tmp_path / "standalone")[-1]
    assert summary["final_personal_accuracy_mean"] == last["personal_accuracy_mean"] > 0.5
    assert "final_personal_accuracy_mean" not in run_folder.read_summary(tmp_path / "fedavg")
