"""Simulated time from the command line, in run folders and in sweeps."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from commandline import command

from fedjax_kd.data.devices import text_of
from fedjax_kd.report import table_files
from fedjax_kd.runs.build import build
from fedjax_kd.runs.clock_config import ClockConfig
from fedjax_kd.runs.config import Config, TrainingConfig, from_json, to_json
from fedjax_kd.runs.folder import read_rows, read_summary
from fedjax_kd.runs.option_files import with_files

FLEET = ["--fleet", "lognormal:forward_ms=5,sigma=1.2,mbit=20", "--num-clients", "20"]
SMALL = ["--model", "logistic", "--cohort-size", "2", "--eval-every", "2", "--chunk=2", "--quiet"]
AROUND = ["--concurrency", "8", "--with", "fedbuff"]


def run(folder: Path, *more: str) -> list[dict[str, Any]]:
    """The rows of a run."""
    assert command("run", "fedavg", *FLEET, *SMALL, "--out", str(folder), *more) == 0
    return read_rows(folder)


def test_a_longer_asynchronous_run_goes_on_from_a_shorter_one(tmp_path: Path):
    """It keeps more servers of the past than the shorter run did."""
    short, long = tmp_path / "short", tmp_path / "long"
    run(short, *AROUND, "--num-rounds", "4")
    kept = build(from_json(json.loads((short / "config.json").read_text()))).places
    assert command("resume", str(short), "--num-rounds", "16", "--quiet") == 0
    assert build(from_json(json.loads((short / "config.json").read_text()))).places > kept
    expected = run(long, *AROUND, "--num-rounds", "16")
    for row, other in zip(read_rows(short), expected, strict=True):
        assert row | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, rel=0, nan_ok=True)
    assert read_summary(long)["simulated_seconds"] == expected[-1]["simulated_seconds"]


def test_points_of_a_sweep_have_a_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    alone = run(tmp_path / "alone", *AROUND, "--num-rounds", "4", "--client-lr", "0.05")
    options = [*FLEET, *SMALL, *AROUND, "--num-rounds", "4"]
    grid = ["--grid", "client_lr=0.05,0.2", "--out", str(tmp_path / "sweep")]
    assert command("sweep", "fedavg", *options, *grid) == 0
    capsys.readouterr()
    results = table_files.read_table(tmp_path / "sweep" / "results.csv")
    rows = [row for row in results if row["client_lr"] == 0.05]
    for name in ("simulated_seconds", "staleness", "late"):
        assert [row.get(name) for row in rows] == [row.get(name) for row in alone]
    assert rows[-1]["test_accuracy"] == pytest.approx(alone[-1]["test_accuracy"], abs=0.02)


def test_files_travel_with_the_configuration(tmp_path: Path):
    devices = {n: {"computation": 1.0 + n, "communication": 100.0} for n in range(1, 5)}
    traces = {n: {"active": [0], "inactive": [9], "finish_time": 10} for n in range(1, 5)}
    fleet, times = tmp_path / "capacity", tmp_path / "trace.json"
    fleet.write_bytes(pickle.dumps(devices))
    times.write_text(json.dumps(traces))
    clock = ClockConfig(str(fleet), str(times), deadline=5.0)
    config = with_files(Config("fedavg", clock=clock, training=TrainingConfig(cohort_size=2)))
    fleet.unlink()
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again == config
    again = Config(**{**vars(again), "data": again.data.__class__(num_clients=4)})
    assert build(again).time is not None


def test_pickles_run_no_code(tmp_path: Path):
    path = tmp_path / "capacity"
    path.write_bytes(pickle.dumps({1: Path("here")}))
    with pytest.raises(ValueError, match="only numbers, words, lists and dicts are read"):
        text_of(path)
    path.write_bytes(b"\xff\xfe not a pickle")
    with pytest.raises(ValueError, match="neither JSON nor a pickle"):
        text_of(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fleet", "nonsense"], "neither a file"),
        (["--deadline", "5"], "deadline needs simulated time"),
        (["--fleet", "constant", "--concurrency", "300"], "concurrency is 300"),
        (["--fleet", "constant:forward_ms=-1"], "forward_ms is -1.0, but must be >= 0"),
        (["--fleet", "constant", "--over-commitment", "20"], "200 clients are asked"),
        (["--fleet", "constant", "--with", "fedasync:alpha=2"], r"must be in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_said(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert command("run", "fedavg", *options, "--out", str(tmp_path / "run")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said)
