"""Runs, comparisons and sweeps that are killed at random moments, and go on to the same numbers.

    python -m benchmarks.kill_anytime --kills 100

Each work is carried out once undisturbed. Then it is started again and again, every time killed
(SIGKILL) at a random moment of its first start or of a `resume`, up to five times in a folder, and
at last left alone. Its tables must be the undisturbed ones, the seconds apart, and nothing but the
run's own files may be left. Processes are forks of this one, which has imported everything, so that
most moments lie in the work itself; needs a system with `fork`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import cli

_SMALL = "--model logistic --num-clients 10 --cohort-size 4 --num-rounds 40 --eval-every 2 --quiet"
WORKS = {
    "run": f"run scaffold {_SMALL} --checkpoint-every 4 --keep-best",
    "comparison": f"run fedavg fedadam {_SMALL} --checkpoint-every 4",
    "sweep": f"sweep fedavg {_SMALL} --grid client-lr=0.01,0.1 --seeds 2",
}
_MOST_KILLS = 5  # in one folder
_BEGUN = ("config.json", "comparison.json", "sweep.json")
_TABLES = ("metrics.csv", "points.csv", "results.csv")
_TIMES = {"seconds", "rounds_per_second", "client_updates_per_second", "chunk"}


def start(args: Sequence[str], log: Path) -> int:
    """The number of a new process that carries out a command of ``fedjax-kd``."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            cli.main(args)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def ended_within(child: int, seconds: float) -> bool:
    """Whether a process ended by itself before it was killed.

    Raises:
      RuntimeError: if it failed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            _check(status)
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        _check(status)
        return True
    return False


def _check(status: int) -> None:
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"a process ended with {os.waitstatus_to_exitcode(status)}: see its log")


def command(work: str, folder: Path) -> list[str]:
    """What has to be done next in a folder: begin, or go on."""
    if any((folder / name).is_file() for name in _BEGUN):
        return ["resume", str(folder), "--quiet"]
    return [*WORKS[work].split(), "--out", str(folder)]


def content(folder: Path) -> dict[str, object]:
    """Everything in a folder that must not depend on when it was killed."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if "checkpoints" in name or "best/" in name or "parts/" in name:
            continue
        found[name] = None
        if path.name in _TABLES:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]
        if path.name == "summary.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in _TIMES}
    return found


def undisturbed(work: str, parent: Path) -> tuple[dict[str, object], float]:
    """The content of a folder that nothing happened to, and the seconds of its second making."""
    for name in ("warm", "alone"):  # the first one fills the cache of compiled programs
        folder, began = parent / f"{work}-{name}", time.monotonic()
        ended_within(start(command(work, folder), parent / "log"), 600)
    return content(folder), time.monotonic() - began


def killed(work: str, folder: Path, seconds: float, most: int, moments: random.Random) -> int:
    """Carries out a work with up to so many kills; how many there were."""
    log, kills = folder.with_suffix(".log"), 0
    while kills < most:
        child = start(command(work, folder), log)
        if ended_within(child, moments.uniform(0, seconds)):
            return kills
        kills += 1
    ended_within(start(command(work, folder), log), 600)
    return kills


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--kills", type=int, default=100, help="in all (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    return options


def main() -> None:
    """Kills, resumes and compares; prints a line for each kind of work."""
    args = make_options().parse_args()
    moments, kills = random.Random(args.seed), Counter[str]()
    folders, wrong = Counter[str](), []
    with tempfile.TemporaryDirectory() as temporary:
        parent = Path(temporary)
        expected = {work: undisturbed(work, parent) for work in WORKS}
        while sum(kills.values()) < args.kills:
            for work, (alone, seconds) in expected.items():
                folder = parent / f"{work}-{folders[work]}"
                most = min(_MOST_KILLS, args.kills - sum(kills.values()))
                kills[work] += killed(work, folder, seconds, most, moments)
                folders[work] += 1
                if content(folder) != alone:
                    wrong.append(folder.name)
    rows: list[Row] = [{"work": w, "kills": kills[w], "folders": folders[w]} for w in WORKS]
    same = 1 - len(wrong) / max(sum(folders.values()), 1)
    publish("kill_anytime", rows, {"folders like the undisturbed one": Ratio(same, 1.0)}, args.json)
    if wrong:
        sys.exit(f"Not like the undisturbed ones: {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
