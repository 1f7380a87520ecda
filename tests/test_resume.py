"""Runs that are killed, interrupted or lengthened give the numbers of runs left alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from commandline import START, command, wait_for

from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import interrupt

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--quiet")
LONG = (*SMALL, "--num-rounds", "240", "--eval-every", "2", "--checkpoint-every", "10")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of a method that nothing happens to, made once."""

    @cache
    def run(method: str) -> Path:
        folder = tmp_path_factory.mktemp("alone") / method
        assert command("run", method, *LONG, "--out", str(folder)) == 0
        return folder

    return run


@pytest.fixture
def scaffold(alone: Callable[[str], Path]) -> Path:
    return alone("scaffold")


def numbers(folder: Path) -> list[list[str]]:
    """metrics.csv without the seconds, which are no reproducible number."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][-1] == "seconds"
    return [row[:-1] for row in rows]


def lines(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 0


def begin(method: str, folder: Path) -> subprocess.Popen:
    args = [*START, "run", method, *LONG, "--out", str(folder)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("method", "rows"), [("scaffold", 30), pytest.param("fedadam", 0, marks=pytest.mark.thorough)]
)
def test_a_killed_run_resumes_bit_for_bit(
    alone: Callable[[str], Path], tmp_path: Path, method: str, rows: int
) -> None:
    folder = tmp_path / "killed"
    process = begin(method, folder)
    wait_for(lambda: (folder / "config.json").exists() and lines(folder) >= rows, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert run_folder.read_summary(folder).get("status") != "finished"
    assert command("resume", str(folder), "--quiet") == 0
    assert numbers(folder) == numbers(alone(method))
    assert run_folder.read_summary(folder)["status"] == "finished"


@pytest.mark.thorough
def test_ctrl_c_keeps_the_run_and_suggests_resume(scaffold: Path, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    process = begin("scaffold", folder)
    wait_for(lambda: lines(folder) >= 20, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"fedjax-kd resume {folder}" in err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == str(folder)
    summary = run_folder.read_summary(folder)
    assert summary["status"] == "interrupted"
    assert 0 < summary["finished_rounds"] < 240
    assert command("resume", str(folder), "--quiet") == 0
    assert numbers(folder) == numbers(scaffold)


@pytest.mark.parametrize("asking", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_or_sigterm_stops_at_once(asking: signal.Signals) -> None:
    code = (
        "import time\nfrom fedjax_kd.runs.interrupt import asked_to_stop\n"
        "with asked_to_stop():\n  print('ready', flush=True)\n"
        "  end = time.monotonic() + 60\n  while time.monotonic() < end: pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert process.stderr is not None
    process.send_signal(asking)
    first = process.stderr.readline() + process.stderr.readline()
    assert "Ctrl-C again" in first
    process.send_signal(asking)
    assert process.wait(10) == 130
    process.communicate()


@pytest.fixture
def ordinary_ctrl_c() -> Iterator[None]:
    """Python's own handling: a process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ordinary_ctrl_c")
def test_ctrl_c_is_ordinary_again_afterwards() -> None:
    with interrupt.asked_to_stop() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while not asked():
            assert time.monotonic() < deadline
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (10, 17),
        pytest.param(8, 16, marks=pytest.mark.thorough),
        pytest.param(3, 5, marks=pytest.mark.thorough),
    ],
)
def test_more_rounds_equal_a_longer_run(tmp_path: Path, first: int, then: int) -> None:
    args = ["run", "fedavgm", *SMALL, "--eval-every", "4"]
    assert command(*args, "--num-rounds", str(first), "--out", str(tmp_path / "short")) == 0
    assert command(*args, "--num-rounds", str(then), "--out", str(tmp_path / "long")) == 0
    assert command("resume", str(tmp_path / "short"), "--num-rounds", str(then), "--quiet") == 0
    assert numbers(tmp_path / "short") == numbers(tmp_path / "long")
    assert (
        json.loads((tmp_path / "short/config.json").read_text())["training"]["num_rounds"] == then
    )


def test_a_finished_run_says_so(scaffold: Path, capsys: pytest.CaptureFixture) -> None:
    before = numbers(scaffold)
    assert command("resume", str(scaffold)) == 0
    assert "finished, all 240 rounds" in capsys.readouterr().out
    assert numbers(scaffold) == before
    assert command("resume", str(scaffold), "--num-rounds", "100") == 2
    assert "has finished 240 rounds already" in capsys.readouterr().err


def test_a_half_written_line_is_no_row(scaffold: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scaffold, tmp_path / "cut")
    table = folder / "metrics.csv"
    text = table.read_text().splitlines(keepends=True)
    table.write_text("".join(text[:232]) + text[232][:7])
    summary = run_folder.read_summary(folder)
    run_folder.write_json(folder / "summary.json", summary | {"status": "running"})
    shutil.rmtree(folder / "checkpoints/240")
    assert command("resume", str(folder), "--quiet") == 0
    assert numbers(folder) == numbers(scaffold)


@pytest.mark.thorough
def test_a_comparison_resumes_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    args = [*SMALL, "--num-rounds", "4", "--eval-every", "2"]
    assert command("run", "fedavg", "fedadam", *args, "--out", str(folder)) == 0
    expected = {m: numbers(folder / m) for m in ("fedavg", "fedadam")}
    shutil.rmtree(folder / "fedavg/checkpoints")
    for lost in ("fedavg/metrics.csv", "fedavg/summary.json", "curve.png"):
        (folder / lost).unlink()
    assert command("resume", str(folder), "--quiet") == 0
    assert {m: numbers(folder / m) for m in expected} == expected
    assert (folder / "curve.png").exists()
