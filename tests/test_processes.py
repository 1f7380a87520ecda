"""Two processes give the numbers of one."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from commandline import command
from federations import SIZES, dataset
from several_processes import numbers

from fedjax_kd.data import pack
from fedjax_kd.engine import processes
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.runs import folder as run_folder

SECONDS = 240  # after which the processes are killed; an idle machine takes 15
DEVICES = 2  # of each process
RUN = (
    *("run", "scaffold", "--model", "logistic", "--num-clients", "10", "--cohort-size", "4"),
    *("--num-rounds", "80", "--eval-every", "2"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(number: int, port: int, folder: Path) -> subprocess.Popen:
    """One process; others reach the first at the port."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # Two processes compile for seconds what they run for milliseconds.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
    }
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "several_processes.py"), str(folder)],
        stdout=(folder / f"out{number}").open("w"),
        stderr=(folder / f"err{number}").open("w"),
        env=environment,
    )


def lines(folder: Path) -> int:
    path = folder / "run/metrics.csv"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes worked; the second was asked to stop its first run."""
    folder = tmp_path_factory.mktemp("together")
    ends = np.cumsum([0, *SIZES])
    pack(folder / "store", dataset(sum(SIZES)), lambda _: [np.arange(*e) for e in pairwise(ends)])
    (folder / "command.json").write_text(json.dumps([*RUN, "--out", str(folder / "run")]))
    port, deadline = free_port(), time.monotonic() + SECONDS
    processes = [launch(number, port, folder) for number in (0, 1)]
    try:
        while lines(folder) < 10 and all(p.poll() is None for p in processes):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGTERM)
        codes = [p.wait(deadline - time.monotonic()) for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0], [(folder / f"err{n}").read_text()[-3000:] for n in (0, 1)]
    return folder


@pytest.fixture(scope="module")
def found(together: Path) -> list[dict[str, Any]]:
    return [json.loads((together / f"process{n}.json").read_text()) for n in (0, 1)]


@pytest.mark.thorough
def test_every_process_gets_the_numbers_of_one(together: Path, found: list[dict[str, Any]]):
    assert [f["devices"] for f in found] == [[2 * DEVICES, DEVICES]] * 2
    alone = numbers(together / "store", None)
    for process in found:
        for name, expected in alone.items():
            chex.assert_trees_all_close(process["numbers"][name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_a_stop_reaches_all_and_a_resumed_run_is_that_of_one_process(
    together: Path, found: list[dict[str, Any]], tmp_path: Path
):
    assert [(f["interrupted"], f["finished"]) for f in found] == [(130, 0)] * 2
    assert command(*RUN, "--out", str(tmp_path / "alone"), "--quiet") == 0
    columns = ("round", "clients", "bytes_up", "train_loss", "test_loss", "steps")
    both = [table(folder, columns) for folder in (together / "run", tmp_path / "alone")]
    assert len(both[0]) == 81
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-5)
    assert run_folder.read_summary(together / "run")["status"] == "finished"


def table(folder: Path, columns: tuple[str, ...]) -> np.ndarray:
    with (folder / "metrics.csv").open(newline="") as file:
        return np.array([[float(row[c] or 0) for c in columns] for row in csv.DictReader(file)])


@pytest.mark.thorough
def test_the_first_process_alone_writes_and_prints(together: Path):
    assert sorted(p.name for p in together.iterdir() if p.is_dir()) == ["run", "store"]
    out, err = ([(together / f"{s}{n}").read_text() for n in (0, 1)] for s in ("out", "err"))
    assert out[0].count(f"{together / 'run'}\n") == 2
    assert f"fedjax-kd resume {together / 'run'}" in err[0]
    assert str(together) not in out[1] + err[1]
    assert "Stopping after this block" in err[1]


@pytest.mark.thorough
def test_all_processes_take_narrower_chunks_when_one_lacks_memory(together: Path):
    for number in (0, 1):
        told = (together / f"err{number}").read_text()
        assert told.count("no memory for chunks of 2 clients: going on with 1") == 1


@pytest.mark.thorough
def test_what_the_first_process_says_reaches_all(found: list[dict[str, Any]]):
    key = jax.random.key_data(jax.random.key(3)).tolist()
    for process in found:
        assert (process["told"], process["key"], process["odd"]) == ([0, "a"], key, [True])


def test_a_process_alone_asks_nobody():
    assert processes.is_first()
    assert processes.any_of(True)
    assert not processes.any_of(False)
    assert processes.by_first(lambda: (1, "a")) == (1, "a")
    with pytest.raises(SystemExit) as exit:
        processes.leave(3)
    assert exit.value.code == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "cannot meet .* set JAX_COORDINATOR_ADDRESS"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID is '-1', but must be a whole number"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
    ],
)
def test_processes_that_do_not_know_each_other(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
):
    jax.devices()  # too late, if nothing else is wrong
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        processes.connect()


def test_a_mesh_of_devices_that_are_not_there():
    with pytest.raises(ValueError, match="devices is 3, but must be between 1 and 2"):
        make_mesh(3)
