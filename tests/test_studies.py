"""The studies of distillation: presets name what exists, and a study ends with a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    asynchrony,
    client_drift,
    comparison,
    compression,
    every_method,
    forgetting,
    generated_features,
    long_tails,
    personalisation,
    private_learning,
    reidentification,
    results,
    robustness,
    server_distillation,
    seven_methods,
    weight_averaging,
)
from experiments.comparison import Arguments, Choice, Preset, command
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands import run
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.interrupt import EXIT_CODE
from fedjax_kd.task import from_nnx

FEW: dict[str, Arguments] = {"fedavg": {}, "fedprox": {"mu": 1.0}}
NOWHERE = Choice(Path("runs"), "nowhere")


def presets() -> Iterator[tuple[str, Preset]]:
    """All of them, by name."""
    yield from seven_methods.PRESETS.items()
    yield "every_method", every_method.preset()
    yield "drift", client_drift.MNIST
    yield "asynchrony", asynchrony.preset(1.2)
    yield "compression", compression.preset("mnist")
    yield "private", private_learning.preset(2.0)
    yield from ((f"robust-{a}", robustness.preset(a)) for a in robustness.ATTACKS)
    for size in ("small", "paper"):
        for split in forgetting.SPLITS:
            yield f"{split}-{size}", forgetting.preset("cifar10", split, size)
        for alpha in server_distillation.ALPHAS:
            yield f"feddf-{alpha}-{size}", server_distillation.preset(0.4, 1, alpha, size)
        yield f"several-{size}", server_distillation.architectures(size)
        for task in ("domains", "pacs", "classes", "dirichlet"):
            yield f"{task}-{size}", personalisation.preset(task, size)
        for alpha in weight_averaging.ALPHAS:
            yield f"averaging-{alpha}-{size}", weight_averaging.preset("cifar10", alpha, size)
        yield f"long-tails-{size}", long_tails.preset("cifar100", size)
        yield f"reidentification-{size}", reidentification.preset(size)
        for slow in (False, True):
            shown = generated_features.preset("mnist", 0.1, size, slow=slow)
            yield f"generated-{size}-{slow}", shown


PRESETS = dict(presets())
# Those of the paper's size name the methods and options of the small ones.
LARGE = [name for name in PRESETS if name.endswith("-paper")]


@pytest.mark.parametrize("size", get_args(long_tails.Size))
@pytest.mark.parametrize(("data", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_networks_of_long_tails_are_wide_enough_for_fedloge(
    data: Any, classes: int, size: Any
) -> None:
    network = MODELS[str(long_tails.preset(data, size).shared["model"])]
    build = network((32, 32, 3), classes)
    task = from_nnx(build, example_x=jnp.zeros((1, 32, 32, 3)))
    assert REGISTRY["fedloge"](task, local_training(client_lr=0.1)).judged_by == "clients"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.thorough] * (n in LARGE)) for n in PRESETS],
)
def test_presets_name_methods_and_options_that_exist(name: str) -> None:
    preset = PRESETS[name]
    for method in preset.methods:
        with pytest.raises((ValueError, SystemExit)) as caught:
            run.main([*command(preset, method, 0, NOWHERE), "--num-rounds", "0"])
        assert "num_rounds" in str(caught.value) or "no folder" in str(caught.value)
    known = {*results.COLUMNS}
    assert {c for c in preset.columns if not c.endswith("%")} <= known


def test_every_method_is_in_the_table_of_all() -> None:
    compared = {method.split("-")[0] for method in every_method.METHODS}
    assert compared == set(REGISTRY)


def test_domains_are_one_data_set_of_one_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in {"mnist": (28, 28, 1), "usps": (16, 16, 1), "mnist_m": (32, 32, 3)}.items():
        x, y = rng.integers(0, 256, (20, *shape), np.uint8), np.arange(20) % 10
        np.savez(tmp_path / f"{name}.npz", train_x=x, train_y=y, test_x=x[:5], test_y=y[:5])
    path = personalisation.digits_of_domains(tmp_path, tmp_path / "out" / "domains.npz")
    made = np.load(path)
    assert made["train_x"].shape == (60, 28, 28, 3)
    assert made["test_x"].shape == (15, 28, 28, 3)
    assert np.unique(made["train_domain"]).tolist() == ["mnist", "mnist_m", "usps"]
    before = path.stat().st_mtime_ns
    personalisation.digits_of_domains(tmp_path, path)
    assert path.stat().st_mtime_ns == before, "made once"
    with pytest.raises(ValueError, match=r"no .*mnist\.npz"):
        personalisation.digits_of_domains(tmp_path / "out", tmp_path / "other.npz")


def test_a_study_ends_with_a_table_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = Preset(
        {"dataset": "digits", "num_clients": 5, "cohort_size": 2, "per_class": True},
        {"fedavg": {}, "fedprox-strong": {"mu": 1.0}},
        (
            "test accuracy",
            "forgetting",
            "clients' models",
            "rounds to 1%",
            "MB up to 1%",
            "seconds",
        ),
    )
    for seeds in (1, 2):
        table = comparison.carry_out("digits", digits, Choice(tmp_path, seeds=seeds, smoke=True))
    head, _, *rows, _, picture = table.splitlines()
    assert head.split(" | ")[1:3] == ["test accuracy", "forgetting"]
    assert [row.split(" | ")[0] for row in rows] == ["| fedavg", "| fedprox-strong"]
    assert all(float(row.split(" | ")[3].split()[0]) > 0 for row in rows), "the global model's"
    assert Path(picture).exists()
    with pytest.raises(ValueError, match="no method fedadam in the study of digits"):
        comparison.carry_out("digits", digits, Choice(tmp_path, methods=["fedadam"]))
    with pytest.raises(ValueError, match="no column 'speed'"):
        results.table({"fedavg": []}, ["speed"])


@pytest.mark.thorough
def test_several_federations_are_compared_at_last(tmp_path: Path) -> None:
    digits: Arguments = {
        "dataset": "digits",
        "partition": "dirichlet",
        "num_clients": 5,
        "cohort_size": 2,
        "per_class": True,
    }
    presets = {
        f"digits-alpha{alpha}": Preset(
            {**digits, "alpha": alpha},
            FEW,
            ("test accuracy", f"rounds to {target}%", "forgetting", "seconds"),
        )
        for alpha, target in ((0.5, 50), (5.0, 70))  # of which there can be no table of both
    }
    choice = Choice(tmp_path, methods=["fedprox"], seeds=2, smoke=True)
    *single, accuracy, forgotten, picture = comparison.carry_out_all("all", presets, choice)
    assert [text.splitlines()[0] for text in single] == ["digits-alpha0.5", "digits-alpha5.0"]
    head, _, row = accuracy.splitlines()[2:]
    assert head == "| method | alpha0.5 | alpha5.0 | seconds |"
    cells = [text.splitlines()[4].split(" | ") for text in single]
    assert row.startswith(f"| fedprox | {cells[0][1]} | {cells[1][1]} | ")
    assert forgotten.startswith("forgetting\n")
    assert Path(picture).stat().st_size > 0


def test_a_stopped_run_stops_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def stopped(words: list[str]) -> int:
        started.append(words)
        return EXIT_CODE

    monkeypatch.setattr(run, "main", stopped)
    with pytest.raises(SystemExit) as caught:
        comparison.carry_out("digits", Preset({}, FEW), Choice(tmp_path))
    assert (caught.value.code, len(started)) == (EXIT_CODE, 1)


def test_a_client_uses_its_own_model_if_it_has_one(tmp_path: Path) -> None:
    named = {"client_accuracy_mean": 0.5, "client_accuracy_worst_decile": 0.1}
    own = {"personal_accuracy_mean": 0.8, "personal_accuracy_worst_decile": 0.6}
    folders = {}
    for method, row in {"fedavg": named, "fedper": {**named, **own}}.items():
        folders[method] = [tmp_path / method]
        folders[method][0].mkdir()
        run_folder.append_rows(folders[method][0], ["round", *row], [{"round": 1.0, **row}])
    columns = ["clients' models", "worst tenth of clients' models"]
    assert results.table(folders, columns).splitlines()[2:] == [
        "| fedavg | 50.0 | 10.0 |",
        "| fedper | 80.0 | 60.0 |",
    ]
