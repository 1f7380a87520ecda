"""Kills runs, comparisons and sweeps at any moment, and compares them with ones left alone.

    python -m benchmarks.kill_anytime --kills 100

A trial begins a training, kills it by SIGKILL, goes on with `fedjax-kd resume`, kills that, and so on
some times; then it lets the training end. Every second kill strikes at a random time, the others
right before a random operation on a file of the run folder. At the end the folder must hold what an
undisturbed one holds: the same files, rows, summary, configuration and final states, to the last bit;
seconds apart.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reporting import Ratio, parser, publish

_SMALL = "--model logistic --num-clients 8 --cohort-size 4 --eval-every 2 --quiet"
KINDS = {
    "run": f"run scaffold {_SMALL} --num-rounds 24 --checkpoint-every 4",
    "comparison": f"run fedavg fedadam {_SMALL} --num-rounds 12 --checkpoint-every 4",
    "sweep": f"sweep fedprox {_SMALL} --num-rounds 12 --seeds 2 --grid mu=0,0.1,1 batch-size=5,10 "
    "--halving 2 --first-rung 3",
}
_MOST_KILLS = 4  # of one trial
_CODE = (
    "import sys; from benchmarks.kill_anytime import die; from fedjax_kd.cli import main; "
    "die(int(sys.argv.pop(1)), sys.argv.pop(1)); main()"
)
_CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_TIMES = ("seconds", "rounds_per_second", "client_updates_per_second")
_ANEW = "nothing is lost"  # what `resume` says of a folder in which nothing was begun


def changes(event: str, args: Sequence[Any], folder: str) -> bool:
    """Whether an audit event of Python changes a file of a folder, or opens it to be changed."""
    if event == "open":
        path, _, flags = args
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(writes) and str(path).startswith(folder)
    if event not in _CHANGING:
        return False
    within = event in ("os.remove", "os.rmdir") and args[-1] != -1  # by `shutil.rmtree`
    return within or str(args[0]).startswith(folder)


def die(operation: int, folder: str) -> None:
    """Lets this process kill itself before an operation on a file of the folder, counted from 1."""
    count = itertools.count(1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if changes(event, args, folder) and next(count) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Spans(NamedTuple):
    """What an undisturbed training takes: seconds in all and with its folder, and operations."""

    seconds: float
    working: float
    operations: int


def start(args: Sequence[str], folder: Path, operation: int = 0) -> subprocess.Popen[str]:
    """A command of fedjax-kd that may kill itself."""
    command = [sys.executable, "-c", _CODE, str(operation), str(folder), *args]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder.parent
    )


def alone(kind: str, folder: Path) -> Spans:
    """An undisturbed training."""
    counting = (
        "import sys; from benchmarks import kill_anytime as k; from fedjax_kd.cli import main\n"
        "n, folder = [], sys.argv.pop(1)\n"
        "sys.addaudithook(lambda e, a: n.append(e) if k.changes(e, a, folder) else None)\n"
        "try:\n  main()\n"
        "finally:\n  print(len(n), file=sys.stderr)\n"
    )
    began = time.monotonic()
    args = [*KINDS[kind].split(), "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", counting, str(folder), *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_lock(folder, process)
    locked = time.monotonic()
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(f"The undisturbed {kind} failed: {told}")
    ended = time.monotonic()
    return Spans(ended - began, ended - locked, int(told.split()[-1]))


def _wait_for_lock(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the process has locked the folder, or has ended."""
    path = folder / "lock"
    while process.poll() is None:
        try:
            if json.loads(path.read_text())["pid"] == process.pid:
                return
        except (OSError, ValueError):
            time.sleep(0.001)


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
        try:
            process.wait(draw.uniform(0, spans.seconds if early else spans.working))
        except subprocess.TimeoutExpired:
            process.kill()
    _, told = process.communicate()
    return process.returncode, told


def trial(
    kind: str, folder: Path, spans: Spans, kills: Sequence[str], draw: random.Random
) -> list[str]:
    """A training that is killed again and again, then ends: the kills that struck it.

    Raises:
      RuntimeError: if it does not go on, or a message is not the expected one.
    """
    struck: list[str] = []
    for how in [*kills, None]:
        code, told = -1, _ANEW
        if folder.exists():
            args = ["resume", str(folder), "--quiet"]
            code, told = attempt(args, folder, spans, how, draw)
        if code == 2 and _ANEW in told or not folder.exists():
            args = [*KINDS[kind].split(), "--out", str(folder)]
            code, told = attempt(args, folder, spans, how, draw)
        if code == -signal.SIGKILL and how is not None:
            struck.append(how)
        elif code != 0:
            raise RuntimeError(f"{kind} {folder} ended with {code} after {struck}: {told}")
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
    draw = random.Random(args.seed)
    struck: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    trials, wrong = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as parent:
        spans = {kind: alone(kind, Path(parent) / f"{kind}-alone") for kind in KINDS}
        hows, kinds = itertools.cycle(("time", "operation")), itertools.cycle(KINDS)
        while sum(counts.total() for counts in struck.values()) < args.kills:
            kind, folder = next(kinds), Path(parent) / "trial"
            kills = list(itertools.islice(hows, draw.randint(1, _MOST_KILLS)))
            struck[kind].update(trial(kind, folder, spans[kind], kills, draw))
            found = differences(folder, Path(parent) / f"{kind}-alone")
            print(f"{kind}: {dict(struck[kind])}", *found, sep="\n  ", file=sys.stderr, flush=True)
            trials[kind], wrong[kind] = trials[kind] + 1, wrong[kind] + bool(found)
            shutil.rmtree(folder)
    rows = [
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
