"""The command line with bad input, full disks and mistakes of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import command

from fedjax_kd.commands import _training
from fedjax_kd.runs import checkpoint, tensorboard
from fedjax_kd.runs import folder as run_folder

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--num-rounds", "4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert command("run", "fedyogi", *SMALL, "--out", str(folder)) == 0
    return folder


GOOD: dict[str, Any] = {
    "train_x": np.zeros((12, 3), np.float32),
    "train_y": np.arange(12) % 3,
    "test_x": np.zeros((3, 3), np.float32),
    "test_y": np.arange(3),
}
FILES: dict[str, dict[str, Any]] = {
    "good": GOOD,
    "keyless": {"x": np.zeros(3)},
    "shapes": {**GOOD, "test_x": np.zeros((3, 4), np.float32)},
    "lengths": {**GOOD, "train_y": np.arange(5)},
    "labels": {**GOOD, "train_y": np.arange(12) - 1},
    "infinite": {**GOOD, "train_x": np.full((12, 3), np.nan, np.float32)},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, arrays in FILES.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


BAD = {
    "rum fedavg": "There is no command 'rum'; near it: run",
    "run fedavgg": "There is no method 'fedavgg'; near it: fedavg",
    "run fedavg fedavg": "A method is named twice",
    "run fedavg --dataset digitz": "'digitz'",
    "run fedavg --dataset god --data-dir FILES": "Did you mean good",
    "run fedavg --dataset good --data-dir FILES/absent": "does not exist",
    "run fedavg --dataset keyless --data-dir FILES": "train_x, train_y, test_x, test_y are missing",
    "run fedavg --dataset shapes --data-dir FILES": "must be the same",
    "run fedavg --dataset lengths --data-dir FILES": "every example needs one label",
    "run fedavg --dataset labels --data-dir FILES": "renumber the labels",
    "run fedavg --dataset infinite --data-dir FILES": "holds a NaN",
    "run fedavg --dataset good --data-dir FILES --num-clients 13": "13",
    "run fedavg --partition dirichlett": "near it: dirichlet",
    "run fedavg --model mlpp": "There is no model 'mlpp'; near it: mlp",
    "run fedyogi --taau 3": "--tau",
    "run fedavg --mu 3": "Unrecognized",
    "run fedavg --client-lr fast": "client-lr",
    "run fedavg --client-lr nan": "client_lr is nan, but must be finite",
    "run fedavg --client-opt adamm": "near it: adam",
    "run fedavg --alpha 0": "alpha is 0",
    "run fedavg --cohort-size 101": "cohort_size is 101, but must be between 1 and the 100",
    "run fedavg --cohort-size 0": "cohort_size is 0, but must be >= 1",
    "run fedavg --num-clients 1438 --min-partition-size 1": "1437",
    "run fedavg --batch-size -1": "batch_size is -1",
    "run fedavg --epochs 0": "epochs is 0",
    "run fedavg --num-rounds 0": "num_rounds is 0, but must be >= 1",
    "run fedavg --eval-every 0": "eval_every is 0",
    "run fedavg --sampling unifrom": "must be 'uniform', 'examples', 'poisson', or a JSON file",
    "run fedavg --dropout-rate 1": "dropout_rate is 1",
    "run fedavg --devices 77": "devices is 77",
    "run fedavg --chunk 0": "chunk is 0",
    "run fedavg --seed -1": "seed",
    "run fedavg --client-test-fraction 1": "fraction",
    "run fedavg --checkpoint-every 0": "checkpoint_every is 0",
    "run fedavg --out FILES": "is not an empty folder",
    "run fedavg --out FILES/good.npz/run": "Not a directory",
    "partition --alpha -1": "alpha is -1",
    "list metods": "near it: methods",
    "describe": "needs the name of a method",
    "describe fedprux": "near it: fedprox",
    "resume FILES": "is no run folder",
    "resume FILES/absent": "There is no folder",
    "evaluate": "needs a run folder",
    "plot FILES": "is no run folder",
    "plot RUN --metric test_acuracy": "there are: ",
    "plot RUN --out curve.xyz": "must end in .png, .pdf, .svg",
    "data": "does one of prepare, pack, synthetic",
}


@pytest.mark.parametrize("given", BAD)
def test_bad_input_exits_with_2(
    given: str, files: Path, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    args = given.replace("FILES", str(files)).replace("RUN", str(finished)).split()
    assert command(*args) == 2
    shown = capsys.readouterr().err
    assert BAD[given] in " ".join(shown.replace("│", " ").split())
    assert "Traceback" not in shown
    assert "unexpected" not in shown


def test_a_checkpoint_of_another_model_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changed = json.loads((finished / "config.json").read_text())
    changed |= {"model": "mlp", "model_options": {"hidden": [5]}}
    write_run(tmp_path, changed, finished / "checkpoints")
    assert command("evaluate", str(tmp_path)) == 2
    shown = capsys.readouterr().err
    assert "server.model.params['head']['kernel']" in shown
    assert "float32[64,10] instead of float32[5,10]" in shown


@pytest.mark.parametrize("change", [{"format": 7}, {"format": None}])
def test_a_run_of_another_version_is_refused(
    change: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changed = json.loads((finished / "config.json").read_text()) | change
    write_run(tmp_path, changed, finished / "checkpoints")
    assert command("resume", str(tmp_path)) == 2
    assert "use the version that wrote it" in capsys.readouterr().err


def write_run(folder: Path, config: dict[str, Any], checkpoints: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "checkpoints").symlink_to(checkpoints)


def test_a_run_without_a_checkpoint_cannot_be_evaluated(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    assert command("evaluate", str(tmp_path)) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    append = run_folder.append_rows

    def append_to_full(folder: Path, *args: Any) -> None:
        (folder / "metrics.csv").unlink(missing_ok=True)
        (folder / "metrics.csv").symlink_to("/dev/full")
        append(folder, *args)

    monkeypatch.setattr(_training.run_folder, "append_rows", append_to_full)
    assert command("run", "fedavg", *SMALL, "--out", str(tmp_path / "run")) == 2
    shown = capsys.readouterr().err
    assert "No space left on device" in shown
    assert "its disk is not full" in shown
    assert "Traceback" not in shown


def test_a_mistake_of_ours_is_not_blamed_on_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "save", lambda folder, state, finished, chunks: int("x"))
    assert command("run", "fedavg", *SMALL, "--quiet", "--out", str(tmp_path / "run")) == 1
    shown = capsys.readouterr().err
    assert "unexpected ValueError: invalid literal" in shown
    assert "FEDJAX_KD_TRACEBACK=1" in shown
    monkeypatch.setenv("FEDJAX_KD_TRACEBACK", "1")
    assert command("run", "fedavg", "--alpha", "0") == 2
    assert "Traceback" in capsys.readouterr().err


def test_tensorboard_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    assert command("run", "fedavg", "--tensorboard") == 2
    assert "pip install 'fedjax-kd[tensorboard]'" in capsys.readouterr().err
