"""Seconds to compile one round of ResNet-8: in a new process, and again from the compilation cache.

    python -m benchmarks.compile

Two processes in turn share a temporary cache folder. "compile s" is what the engine reports: the
block of rounds and the evaluation. "ready s" is all of the time from the call of ``simulate`` until
the first round is about to start, tracing and the choice of a chunk width included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.cases import CASES, make_algorithm, make_federation, start
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd.engine import compile_cache

GOAL_CASE, FIRST_GOAL, CACHED_GOAL = "resnet8", 25.0, 3.0  # seconds


def compile_once(model: str, cohort: int, chunk: int | None) -> dict[str, float]:
    """Seconds to compile a round, in this process."""
    compile_cache.enable()
    case = CASES[model]
    federation = make_federation(case, cohort)
    algorithm = make_algorithm(case, federation)
    began = time.perf_counter()
    running = start(algorithm, federation, rounds=case.rounds, cohort_size=cohort, chunk=chunk)
    return {"compile s": running.compile, "ready s": time.perf_counter() - began}


def in_process(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The same in a process of its own, with its cache in ``folder``."""
    command = [sys.executable, "-m", "benchmarks.compile", "--here", "--model", args.model]
    command += ["--cohort", str(args.cohort)]
    command += [] if args.chunk is None else ["--chunk", str(args.chunk)]
    environment = os.environ | {compile_cache.VARIABLE: folder}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    spent = time.perf_counter() - began
    return json.loads(done.stdout) | {"process s": spent}


def row_of(args: argparse.Namespace, name: str, seconds: dict[str, float], goal: float) -> Row:
    """A line of the table; a goal of infinity is none."""
    row = {"model": args.model, "cohort": args.cohort, "process": name} | seconds
    if goal == math.inf:
        return row
    return row | {"goal s": goal, "": "reached" if seconds["compile s"] <= goal else "MISSED"}


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--model", choices=CASES, default="resnet8", help="(default: %(default)s)")
    add("--cohort", type=int, default=10, help="clients in a round (default: %(default)s)")
    add("--chunk", type=int, help="clients at once (default: the engine's choice)")
    add("--here", action="store_true", help="compile once in this process, and print JSON")
    return options


def main() -> None:
    """Prints a line for each of the two processes."""
    args = make_options().parse_args()
    if args.here:
        print(json.dumps(compile_once(args.model, args.cohort, args.chunk)))
        return
    with tempfile.TemporaryDirectory() as folder:
        first, cached = in_process(args, folder), in_process(args, folder)
    goals = (FIRST_GOAL, CACHED_GOAL) if args.model == GOAL_CASE else (math.inf, math.inf)
    runs = (("first", first, goals[0]), ("second, from the cache", cached, goals[1]))
    rows = [row_of(args, name, seconds, goal) for name, seconds, goal in runs]
    ratios = {"first / from the cache": Ratio(first["compile s"] / cached["compile s"])}
    publish("compile", rows, ratios, args.json)


if __name__ == "__main__":
    main()
