"""Kills runs, comparisons and sweeps at any moment, and compares them with ones left alone.

    python -m benchmarks.kill_anytime --kills 100

A trial begins a training, kills it by SIGKILL, goes on with `fedjax-kd resume`, kills that, and so
on some times; then it lets the training end. Every second kill strikes at a random time, the others
right before a random operation on a file of the run folder. At the end the folder must hold what an
undisturbed one holds, to the last bit: the same files, rows, summary, configuration and final
states; seconds apart.
"""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.file_operations import watching
from benchmarks.reporting import Ratio, Row, parser, publish

_SMALL = "--model logistic --num-clients 8 --cohort-size 4 --eval-every 2 --quiet"
KINDS = {
    "run": f"run scaffold {_SMALL} --num-rounds 24 --checkpoint-every 4",
    "comparison": f"run fedavg fedprox {_SMALL} --num-rounds 8 --checkpoint-every 4",
    "sweep": f"sweep fedprox {_SMALL} --num-rounds 8 --grid mu=0,0.1 batch-size=5,10 --halving 2 "
    "--first-rung 4",
}
_MOST_KILLS = 4  # of one trial
# Processes are forked from one that has imported these, and has not touched a device.
_IMPORTED = (
    *(f"fedjax_kd.commands.{name}" for name in ("run", "sweep", "resume")),
    *("orbax.checkpoint", "matplotlib.figure", "sklearn.datasets", "pyarrow.parquet"),
    "fedjax_kd.cli",
)
_TIMES = ("seconds", "rounds_per_second", "client_updates_per_second")
_ANEW = "nothing is lost"  # what `resume` says of a folder in which nothing was begun


class Spans(NamedTuple):
    """What an undisturbed training takes: seconds in all and with its folder, and operations."""

    seconds: float
    working: float
    operations: int


def _command(args: Sequence[str], folder: Path, operation: int) -> None:
    """In a process of its own: a command, which kills itself before an operation on the folder.

    Operations are counted from 1; their number is written beside the folder.
    """
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    from fedjax_kd import cli

    for number, name in ((1, os.devnull), (2, str(_told(folder)))):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        with watching(folder, counted):
            cli.main(args)
    finally:
        _count(folder).write_text(str(count))


def _count(folder: Path) -> Path:
    return folder.with_suffix(".count")


def _told(folder: Path) -> Path:
    return folder.with_suffix(".err")


def start(args: Sequence[str], folder: Path, operation: int = 0) -> ForkServerProcess:
    """Begins a command that may kill itself."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_command, args=(args, folder, operation))
    process.start()
    return process


def alone(kind: str, folder: Path) -> Spans:
    """An undisturbed training."""
    began = time.monotonic()
    process = start([*KINDS[kind].split(), "--out", str(folder)], folder)
    _wait_for_lock(folder, process)
    locked = time.monotonic()
    process.join()
    ended = time.monotonic()
    if process.exitcode:
        raise RuntimeError(f"The undisturbed {kind} failed: {_told(folder).read_text()}")
    count = int(_count(folder).read_text())
    return Spans(ended - began, ended - locked, count)


def _wait_for_lock(folder: Path, process: ForkServerProcess) -> None:
    """Until the process has locked the folder, or has ended."""
    while process.exitcode is None:
        try:
            if json.loads((folder / "lock").read_text())["pid"] == process.pid:
                return
        except (OSError, ValueError):
            time.sleep(0.002)


def attempt(
    args: Sequence[str], folder: Path, spans: Spans, how: str | None, draw: random.Random
) -> tuple[int, str]:
    """One process: its exit code, and what it said.

    Args:
      args: of the command.
      folder: of the training.
      spans: of an undisturbed training.
      how: "time", "operation", or None to leave it alone.
      draw: of when it is killed.
    """
    operation = draw.randint(1, spans.operations) if how == "operation" else 0
    process = start(args, folder, operation)
    if how == "time":
        early = draw.random() < 0.1
        if not early:
            _wait_for_lock(folder, process)
        process.join(draw.uniform(0, spans.seconds if early else spans.working))
        process.kill()
    process.join()
    return process.exitcode or 0, _told(folder).read_text() if _told(folder).exists() else ""


def trial(
    kind: str, folder: Path, spans: Spans, kills: Sequence[str], draw: random.Random
) -> list[str]:
    """A training that is killed again and again, then ends: the kills that struck it.

    Raises:
      RuntimeError: if it does not go on, or says something else than it should.
    """
    struck: list[str] = []
    for how in [*kills, None]:
        code, told = 2, _ANEW
        if folder.exists():
            code, told = attempt(["resume", str(folder), "--quiet"], folder, spans, how, draw)
        if code == 2 and _ANEW in told:
            args = [*KINDS[kind].split(), "--out", str(folder)]
            code, told = attempt(args, folder, spans, how, draw)
        if code == 0:
            break
        if code != -signal.SIGKILL or how is None:
            raise RuntimeError(f"{kind} {folder} ended with {code} after {struck}: {told}")
        struck.append(how)
    return struck


def differences(folder: Path, expected: Path) -> list[str]:
    """The files of a finished training that are not as they should be."""
    names = [{str(p.relative_to(f)) for p in _files(f)} for f in (folder, expected)]
    wrong = [f"{name} is in one folder alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if _content(folder / name) != _content(expected / name):
            wrong.append(f"{name} differs")
    return wrong + [
        f"{path.relative_to(expected)}: the last state differs"
        for path in expected.rglob("checkpoints")
        if not _same_state(folder / path.relative_to(expected), path)
    ]


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and "checkpoints" not in p.parts]


def _content(path: Path) -> Any:
    """What must agree in a file: all but seconds."""
    if path.suffix == ".json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k not in _TIMES}
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [
                {k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
            ]
    return path.suffix == ".parquet" or path.read_bytes()


def _same_state(folder: Path, expected: Path) -> bool:
    """Whether the newest checkpoints of two folders hold the same arrays, after as many rounds."""
    import jax
    import orbax.checkpoint as ocp

    steps = [sorted(p.name for p in f.iterdir()) for f in (folder, expected)]
    newest = [max(names, key=int) if all(map(str.isdecimal, names)) else "" for names in steps]
    if newest[0] != newest[1] or not newest[0]:
        return False
    states = []
    for parent, step in zip((folder, expected), newest, strict=True):
        with ocp.StandardCheckpointer() as reader:
            states.append(reader.restore(parent.absolute() / step / "state"))
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), *states))


def main() -> None:
    """Kills as often as is asked, and says what became of it; exits with 1 if anything differs."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=100, help="at least so many")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    args = options.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_IMPORTED))
    draw = random.Random(args.seed)
    struck: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    trials, wrong = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as parent:
        os.environ["FEDJAX_KD_CACHE"] = str(Path(parent) / "cache")
        for again in ("first", "alone"):  # the second one finds its programs compiled
            spans = {kind: alone(kind, Path(parent) / f"{kind}-{again}") for kind in KINDS}
        hows, kinds = itertools.cycle(("time", "operation")), itertools.cycle(KINDS)
        while sum(counts.total() for counts in struck.values()) < args.kills:
            kind, folder = next(kinds), Path(parent) / "trial"
            kills = list(itertools.islice(hows, draw.randint(1, _MOST_KILLS)))
            struck[kind].update(trial(kind, folder, spans[kind], kills, draw))
            found = differences(folder, Path(parent) / f"{kind}-alone")
            print(f"{kind}: {dict(struck[kind])}", *found, sep="\n  ", file=sys.stderr, flush=True)
            trials[kind], wrong[kind] = trials[kind] + 1, wrong[kind] + bool(found)
            shutil.rmtree(folder)
    rows: list[Row] = [
        {
            "kind": kind,
            "trainings": trials[kind],
            "killed at a time": struck[kind]["time"],
            "at an operation": struck[kind]["operation"],
            "of operations": spans[kind].operations,
            "not the same": wrong[kind],
        }
        for kind in KINDS
    ]
    same = 1 - wrong.total() / trials.total()
    publish("kill_anytime", rows, {"trainings that end the same": Ratio(same, 1.0)}, args.json)
    sys.exit(same < 1)


if __name__ == "__main__":
    main()
