"""Run folders: whose they are, what they were made with, and where they may be resumed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import command
from invented import replace_trainings

from fedjax_kd.commands.partition import data_config
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import provenance
from fedjax_kd.runs.build import build
from fedjax_kd.runs.comparison import configs_in, write_comparison
from fedjax_kd.runs.config import Config, TrainingConfig, from_json, to_json
from fedjax_kd.runs.data_config import DataConfig
from fedjax_kd.runs.lock import LOCK, held
from fedjax_kd.runs.option_files import with_files
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps.study import Study, checked

SMALL = ("--model", "logistic", "--num-clients", "4", "--cohort-size", "2", "--partition", "iid")
QUICK = ("--eval-every", "1", "--checkpoint-every", "1", "--quiet")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_trainings(monkeypatch)


def write_data(folder: Path, *, label: int = 0) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{part}_x": rng.random((20, 3), np.float32) for part in ("train", "test")}
    labels = {f"{part}_y": np.arange(20) % 2 for part in ("train", "test")}
    labels["train_y"][0] = label
    folder.mkdir(exist_ok=True)
    np.savez(folder / "made.npz", **arrays, **labels)


def begun(folder: Path, *more: str, rounds: int = 2) -> Path:
    run = ("run", "fedavg", *SMALL, *QUICK, *more, "--num-rounds", str(rounds))
    assert command(*run, "--out", str(folder)) == 0
    return folder


def about(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.mark.usefixtures("quick")
def test_changed_data_and_other_versions(tmp_path: Path, capsys: pytest.CaptureFixture):
    data = tmp_path / "data"
    write_data(data)
    folder = begun(tmp_path / "run", "--dataset", "made", "--data-dir", str(data))
    first = about(folder)
    assert [e["first_round"] for e in first["environments"]] == [1]
    run_folder.write_json(
        folder / "config.json",
        {
            **first,
            "environment": first["environment"] | {"jax": "0.0.1"},
            "environments": [first["environments"][0] | {"jax": "0.0.1"}],
        },
    )
    write_data(data, label=1)
    longer = ("resume", str(folder), "--num-rounds", "3", "--quiet")
    for args in (longer, ("evaluate", str(folder))):
        capsys.readouterr()
        assert command(*args) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"The data of {folder}, made of {data}, have changed" in told
        assert "training targets and clients' test rows differ. Restore them" in told
        assert "--changed-data" in told
    assert len(run_folder.read_rows(folder)) == 3
    assert command(*longer, "--changed-data") == 0
    told = capsys.readouterr().err
    here = first["environment"]["jax"]
    assert f"was made with jax 0.0.1, but here are jax {here}" in told
    assert told.count("Warning") == 1
    after = about(folder)
    assert [(e["first_round"], e["jax"]) for e in after["environments"]] == [
        (1, "0.0.1"),
        (3, here),
    ]
    assert [f["first_round"] for f in after["fingerprints"]] == [1, 3]
    assert after["fingerprints"][0] == first["fingerprints"][0]
    write_data(data)
    assert command("resume", str(folder), "--num-rounds", "4", "--quiet") == 2


def test_a_sweep_refuses_changed_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    data, folder = tmp_path / "data", tmp_path / "sweep"
    write_data(data)
    sweep = ("sweep", "fedavg", *SMALL, "--quiet", "--num-rounds", "1", "--grid", "client-lr=0.1,1")
    where = ("--dataset", "made", "--data-dir", str(data), "--out", str(folder))
    assert command(*sweep, *where) == 0
    first = about(folder, "sweep.json")
    assert [e["finished_points"] for e in first["environments"]] == [0]
    write_data(data, label=1)
    assert command("resume", str(folder), "--quiet") == 0, "nothing is left to be trained"
    shutil.rmtree(folder / "parts")
    assert command("resume", str(folder), "--quiet") == 2
    assert "training targets and clients' test rows differ" in capsys.readouterr().err
    assert not (folder / LOCK).exists()
    assert about(folder, "sweep.json") == first


@pytest.mark.usefixtures("quick")
def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = begun(tmp_path / "run")
    rows = (folder / "metrics.csv").read_text()
    with held([folder], "fedjax-kd run"):
        assert command("resume", str(folder), "--num-rounds", "3") == 2
        told = capsys.readouterr().err
        assert f"{folder} is being written by `fedjax-kd run` (process {os.getpid()}" in told
        assert "room" not in told
        assert (folder / "metrics.csv").read_text() == rows
        assert command("evaluate", str(folder)) == 0
        assert command("report", str(folder), "--out", str(tmp_path / "page.html")) == 0
    parent = tmp_path / "both"
    run = ("run", "fedavg", "fedprox", *SMALL, *QUICK, "--num-rounds", "1", "--out", str(parent))
    assert command(*run) == 0
    with held([parent / "fedprox"], "fedjax-kd resume"):
        assert command("resume", str(parent), "--num-rounds", "2") == 2
        assert "both/fedprox is being written" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_two_at_once_into_one_folder(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "new"
    folder.mkdir()
    grid = ("--grid", "client-lr=0.1") if kind == "sweep" else ()
    with held([folder], "fedjax-kd run"):
        start = (
            kind,
            "fedavg",
            *SMALL,
            *grid,
            "--quiet",
            "--num-rounds",
            "1",
            "--out",
            str(folder),
        )
        assert command(*start) == 2
        assert "is being written by" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [LOCK]


@pytest.mark.usefixtures("quick")
def test_what_was_stopped_before_it_began(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (LOCK, "config.json.part"):
        (folder / name).write_text('{"format"')
    for command_ in ("resume", "evaluate", "plot"):
        assert command(command_, str(folder)) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"nothing is lost. Start it anew, with --out {folder}" in told
    begun(folder)
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == [
        *("config.json", "curve.png", "metrics.csv", "split.png", "summary.json")
    ]
    assert command("run", "fedavg", *SMALL, "--out", str(folder)) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_a_comparison_knows_runs_that_were_not_begun(tmp_path: Path):
    configs = {m: Config(m, training=TrainingConfig(num_rounds=9)) for m in ("fedavg", "fedprox")}
    write_comparison(tmp_path, configs)
    (tmp_path / "fedavg").mkdir()
    run_folder.write_config(tmp_path / "fedavg", Config("fedavg", training=TrainingConfig(5)))
    found = configs_in(tmp_path)
    assert found == {tmp_path / name: config for name, config in configs.items()}


def test_an_older_folder_keeps_what_it_says(tmp_path: Path):
    older = {**to_json(Config("fedavg")), "environment": {"jax": "0.0.1"}}
    del older["files"]
    run_folder.write_json(tmp_path / "config.json", older)
    assert run_folder.read_config(tmp_path) == Config("fedavg")
    record = provenance.recorded(run_folder.record_of(tmp_path), 8, {"train_x": "a"})
    assert [(e["first_round"], e.get("jax")) for e in record["environments"]] == [
        (1, "0.0.1"),
        (8, provenance.environment()["jax"]),
    ]
    assert record["fingerprints"] == [{"first_round": 8, "digests": {"train_x": "a"}}]
    again = provenance.recorded(record, 8, {"train_x": "b"})
    assert [f["digests"] for f in again["fingerprints"]] == [{"train_x": "b"}], "trained again"


def test_files_that_options_name_travel_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("cohorts.json").write_text("[[0, 2], [1, 3]]")
    Path("uniform").write_text("[[0]]")
    data = DataConfig(partition="iid", num_clients=4, data_dir="data")
    training = TrainingConfig(num_rounds=4, cohort_size=2, sampling="cohorts.json")
    config = with_files(Config("fedavg", data=data, model="logistic", training=training))
    assert config.data.data_dir == str(tmp_path / "data")
    study = checked(
        Study(
            bases={"fedavg": Config("fedavg", data=data, model="logistic")},
            settings=tuple(
                {"method": "fedavg", "sampling": s} for s in ("uniform", "cohorts.json")
            ),
            seeds=(0,),
        )
    )
    Path("cohorts.json").unlink()
    monkeypatch.chdir("/")
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert with_files(again) == again == config
    assert [build(again).cohort(n).ids.tolist() for n in range(2)] == [[0, 2], [1, 3]]
    drawn, fixed = (study.config(n, 0) for n in range(2))
    assert drawn.training.sampling == "uniform"
    assert fixed.files[fixed.training.sampling] == "[[0, 2], [1, 3]]"


def test_who_has_which_model_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("who.json").write_text("[1, 0, 1, 0]")
    config = with_files(Config("fedmd", models=("logistic", "mlp"), model_of="who.json"))
    Path("who.json").write_text("[0, 0, 1, 1]")
    assert config.files == {str(tmp_path / "who.json"): "[1, 0, 1, 0]"}
    data = DataConfig(partition="iid", num_clients=4, public="holdout")
    training = TrainingConfig(num_rounds=1, cohort_size=2)
    simulation = build(
        from_json({**to_json(config), "data": vars(data), "training": vars(training)})
    )
    assert [np.asarray(m).tolist() for m in simulation.layout.members] == [[1, 3], [0, 2]]


def test_the_data_folder_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDJAX_KD_DATA", "somewhere")
    found = {"data": {"dataset": "made", "data_dir": None, "seed": None}, "partition": {}}
    assert data_config(found, 0).data_dir == str(Path("somewhere").absolute())


def test_a_sweep_says_what_it_was_made_with(tmp_path: Path):
    study = Study({"fedavg": Config("fedavg")}, ({"method": "fedavg"},), (0,))
    sweep_runner.write_study(tmp_path, study)
    record = {"environment": {"jax": "0.0.1"}, "environments": [{"finished_points": 0}]}
    sweep_runner.write_study(tmp_path, study, record)
    sweep_runner.write_study(tmp_path, study)
    assert sweep_runner.sweep_record(tmp_path) == record
