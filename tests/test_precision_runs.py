"""The option ``precision`` of a run, from the command line to what was learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from experiments import precision as experiment
from experiments.comparison import Choice, command
from fedjax_kd.commands import run
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.models import MODELS
from fedjax_kd.runs import build
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.config import Config, DataConfig, TrainingConfig
from fedjax_kd.task import from_linen, from_nnx
from fedjax_kd.train import blocks


def test_an_unknown_precision_is_refused():
    message = "precision is 'float16', but must be one of float32, tf32, bfloat16: take"
    with pytest.raises(ValueError, match=message):
        from_nnx(MODELS["mlp"]((2,), 2), precision="float16")
    with pytest.raises(ValueError, match=message):
        from_linen(linen.Dense(2), jnp.ones((1, 2)), precision="float16")
    data = DataConfig(partition="iid", num_clients=5)
    with pytest.raises(ValueError, match=message):
        build.build(Config("fedavg", data=data, training=TrainingConfig(precision="float16")))


def test_the_command_line_knows_the_three(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        run.main(["fedavg", "--precision", "float16"])
    assert caught.value.code == 2
    assert "bfloat16" in "".join(capsys.readouterr())


def test_a_run_from_before_the_option_can_be_read(tmp_path: Path):
    given = Config("fedavg", training=TrainingConfig(num_rounds=7))
    run_folder.write_config(tmp_path, given)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["training"].pop("precision") == "float32"
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert run_folder.read_config(tmp_path) == given


@pytest.mark.thorough
def test_bfloat16_learns_digits_as_well():
    base = Config(
        "fedavg",
        local={"client_lr": 0.1, "batch_size": 10},
        data=DataConfig(partition="iid", num_clients=20),
        training=TrainingConfig(num_rounds=20, cohort_size=10, eval_every=20),
    )
    accuracy = {}
    for precision in ("float32", "bfloat16"):
        training = replace(base.training, precision=precision)
        simulation = build.build(replace(base, training=training))
        *_, last = blocks(simulation, initial_state(simulation))
        assert {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(last.state.server.model)} == {
            np.dtype(np.float32)
        }
        accuracy[precision] = last.rows[-1]["test_accuracy"]
    assert accuracy["float32"] > 0.9
    assert accuracy["bfloat16"] == pytest.approx(accuracy["float32"], abs=0.02)
    assert accuracy["bfloat16"] > 0.9


@pytest.mark.parametrize("task", ["digits", "mnist"])
def test_the_experiment_names_options_that_exist(task: Literal["digits", "mnist"]):
    words = command(experiment.preset(task), "fedavg-bfloat16", 0, Choice(Path("runs")))
    with pytest.raises(ValueError, match=r"num_rounds is 0|no folder"):
        run.main([*words, "--data-dir", "nowhere", "--num-rounds", "0"])


def test_the_experiment_compares_seed_by_seed(tmp_path: Path):
    found = {"float32": (0.90, 0.94), "tf32": (0.90, 0.94), "bfloat16": (0.91, 0.95)}
    folders = {}
    for precision, accuracies in found.items():
        folders[f"fedavg-{precision}"] = [tmp_path / f"{precision}{a}" for a in accuracies]
        for folder, accuracy in zip(folders[f"fedavg-{precision}"], accuracies, strict=True):
            folder.mkdir()
            summary = {"final_test_accuracy": accuracy, "seconds": {"train": 2.0}}
            run_folder.write_json(folder / "summary.json", summary)
    assert experiment.table(folders).splitlines()[2:] == [
        "| float32 | 92.00 ± 2.83 | +0.00 ± 0.00 | 2.0 |",
        "| tf32 | 92.00 ± 2.83 | +0.00 ± 0.00 | 2.0 |",
        "| bfloat16 | 93.00 ± 2.83 | +1.00 ± 0.00 | 2.0 |",
    ]
