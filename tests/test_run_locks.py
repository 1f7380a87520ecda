"""One process at a time in a run folder; data, versions and files that decide a run's numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import command

from fedjax_kd.errors import InputError
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import lock, provenance

SMALL = "--model logistic --num-clients 4 --cohort-size 2 --eval-every 1 --quiet --partition iid"


def run(out: Path, *words: str, rounds: int = 1) -> int:
    return command(
        "run", "fedavg", *SMALL.split(), "--num-rounds", str(rounds), *words, "--out", str(out)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locks") / "run"
    assert run(folder) == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_two_processes_do_not_write_to_one_folder(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (copy / "metrics.csv").read_bytes()
    with lock.held([copy], "fedjax-kd run"):
        owner = json.loads((copy / lock.LOCK).read_text())
        assert (owner["pid"], owner["command"]) == (os.getpid(), "fedjax-kd run")
        assert command("resume", str(copy), "--num-rounds", "2", "--quiet") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"is being written by `fedjax-kd run` (process {os.getpid()} on" in told
    assert "disk" not in told
    assert (copy / "metrics.csv").read_bytes() == rows
    assert not (copy / lock.LOCK).exists()
    assert command("resume", str(copy), "--num-rounds", "2", "--quiet") == 0
    assert [row["round"] for row in run_folder.read_rows(copy)] == [0, 1, 2]


def dead_process() -> int:
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def test_a_lock_whose_owner_is_gone_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / lock.LOCK
    for left in ("", "{", json.dumps(lock.Owner("x", dead_process(), "", 0.0)._asdict())):
        path.write_text(left)
        os.utime(path, (0, 0))
        with lock.held([tmp_path], "fedjax-kd run"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()


@pytest.mark.parametrize("age", [1, 1000])
def test_without_locks_of_the_system_signs_of_life_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int
) -> None:
    """As on a file system that knows none, of a process on another machine."""
    monkeypatch.setattr(lock, "_flock", lambda file: None)
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps(lock.Owner("fedjax-kd sweep", 1, "elsewhere", 0.0)._asdict()))
    silent = path.stat().st_mtime - age
    os.utime(path, (silent, silent))
    if age < 60:
        with (
            pytest.raises(InputError, match=r"process 1 on elsewhere.*sign of life is 1 s old"),
            lock.held([tmp_path], "fedjax-kd resume"),
        ):
            pass
    else:
        with lock.held([tmp_path], "fedjax-kd resume"):
            assert json.loads(path.read_text())["host"] != "elsewhere"


def write_arrays(folder: Path, change: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    x[0, 0] += change
    np.savez(folder / "mine.npz", train_x=x[:30], train_y=y[:30], test_x=x[30:], test_y=y[30:])


def test_changed_data_are_refused_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arrays(tmp_path)
    folder, data = tmp_path / "run", ("--dataset", "mine", "--data-dir", str(tmp_path))
    assert run(folder, *data) == 0
    more = ("resume", str(folder), "--num-rounds", "2", "--quiet")
    write_arrays(tmp_path, change=1e-6)
    for words in (more, ("evaluate", str(folder))):
        assert command(*words) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "have changed since it was trained" in told
        assert "--changed-data" in told
    assert command(*more, "--changed-data") == 0
    known = json.loads((folder / "config.json").read_text())["fingerprints"]
    assert [stretch["first_round"] for stretch in known] == [1, 2]
    assert known[0]["digests"] != known[1]["digests"]


def test_other_versions_are_told_and_both_are_kept(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "config.json"
    values = json.loads(path.read_text())
    for record in (values["environment"], *values["environments"]):
        record["jax"] = "0.1.0"
    path.write_text(json.dumps(values))
    assert command("resume", str(copy), "--num-rounds", "2", "--quiet") == 0
    assert "was made with jax 0.1.0, but here are jax" in " ".join(capsys.readouterr().err.split())
    kept = json.loads(path.read_text())["environments"]
    assert [(e["first_round"], e["jax"]) for e in kept] == [
        (1, "0.1.0"),
        (2, provenance.environment()["jax"]),
    ]


@pytest.mark.thorough
def test_a_run_that_names_files_goes_on_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohorts are kept as they were read; the data folder is found by its whole path."""
    write_arrays(tmp_path)
    (tmp_path / "cohorts.json").write_text("[[0, 1], [2, 3], [0, 3]]")
    monkeypatch.chdir(tmp_path)
    words = ("--dataset", "mine", "--data-dir", ".", "--sampling", "cohorts.json")
    assert run(Path("whole"), *words, rounds=3) == 0
    assert run(Path("parts"), *words, rounds=1) == 0
    (tmp_path / "cohorts.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("resume", str(tmp_path / "parts"), "--num-rounds", "3", "--quiet") == 0
    whole, parts = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in run_folder.read_rows(folder)]
        for folder in (tmp_path / "whole", tmp_path / "parts")
    )
    assert parts == whole


@pytest.mark.parametrize(
    "left",
    [
        pytest.param((), marks=pytest.mark.thorough),
        pytest.param(("lock",), marks=pytest.mark.thorough),
        ("config.json.part", "lock"),
    ],
)
def test_what_was_killed_before_it_began_begins_again(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    assert run(folder) == 0
    assert run_folder.read_summary(folder)["status"] == "finished"
    assert run(folder) == 2
