"""Running one system on one workload as a subprocess in its own environment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import benchmarks

MODULES = {
    "ours": "ours",
    "pfl": "pfl",
    "fedjax": "fedjax",
    "flower": "flower",
    "torch": "torch_loop",
}

_LAST_LINES = 12


class Outcome(NamedTuple):
    """The report of a run, or what went wrong."""

    report: dict[str, Any] | None
    problem: str = ""


def run(
    system: str, python: Path, arrays: Path, *, settings: dict[str, Any], timeout: float
) -> Outcome:
    """One run of a system, in as many processes as ``settings["processes"]`` says.

    Args:
      system: a key of `MODULES`.
      python: interpreter of its environment.
      arrays: the ``.npz`` file; the settings lie beside it.
      settings: added to the workload's, such as ``threads`` and ``rounds``.
      timeout: in seconds; a run that takes longer is ended, with all that it started.
    """
    given = json.loads(arrays.with_suffix(".json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work, out, log = (Path(folder) / n for n in ("work.json", "out.json", "log.txt"))
        told = given | settings | {"spawned_at": time.time()}
        work.write_text(json.dumps(told), encoding="utf-8")
        module = f"benchmarks.rivals.runners.{MODULES[system]}"
        command = [str(python), "-m", module, str(arrays), str(work), str(out)]
        with log.open("w", encoding="utf-8") as lines:
            problem = _wait(_start(command, settings, lines), timeout)
        if not problem and not out.exists():
            problem = "ended without a report"
        if problem:
            said = log.read_text(encoding="utf-8", errors="replace").splitlines()
            return Outcome(None, "\n".join([problem, *said[-_LAST_LINES:]]))
        return Outcome(json.loads(out.read_text(encoding="utf-8")))


def _start(command: list[str], settings: dict[str, Any], log: Any) -> list[subprocess.Popen[Any]]:
    """Starts the processes of a run, each the head of a group of its own."""
    count, threads = settings.get("processes", 1), settings.get("threads")
    shared = dict(os.environ, PYTHONPATH=str(Path(benchmarks.__file__).parents[1]))
    if threads is not None:
        shared["OMP_NUM_THREADS"] = str(threads)
    addresses = ",".join(f"localhost:{port}" for port in _free_ports(count))

    def environment(rank: int) -> dict[str, str]:
        if count == 1:
            return shared
        return shared | {"PFL_WORKER_RANK": str(rank), "PFL_WORKER_ADDRESSES": addresses}

    return [
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(rank), start_new_session=True
        )
        for rank in range(count)
    ]


def _wait(processes: list[subprocess.Popen[Any]], timeout: float) -> str:
    """Waits for all processes; what went wrong, or nothing."""
    until = time.monotonic() + timeout
    try:
        for process in processes:
            if process.wait(max(0.0, until - time.monotonic())):
                return f"failed (exit code {process.returncode})"
        return ""
    except subprocess.TimeoutExpired:
        return f"no result within {timeout:.0f} s"
    finally:
        for process in processes:
            _end_group(process)


def _end_group(process: subprocess.Popen[Any]) -> None:
    """Ends a process and whatever it started and left behind, such as Ray's workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
