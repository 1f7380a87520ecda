"""Seconds of the same training from Python, again in one process, with and without its cache.

    python -m benchmarks.repeat

`fedjax_kd.train` is called three times in a new process, each time from a new task and algorithm:
nothing of them is kept in memory, so that the second call shows what the cache on disk saves. The
other process has no cache (FEDJAX_KD_CACHE=off).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import (
    MODELS,
    DirichletPartitioner,
    fedadam,
    federate,
    from_nnx,
    load,
    local_training,
    train,
)
from fedjax_kd.engine import compile_cache

CALLS = 3


def repeated(rounds: int) -> list[float]:
    """Seconds of each call of `train`, in this process."""
    split = DirichletPartitioner(num_partitions=100, alpha=0.1, min_partition_size=1, seed=0)
    federation = federate(load("digits"), split)
    build = MODELS["mlp"](federation.input_shape, federation.num_classes, hidden=(64,))
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        task = from_nnx(build, prepare=federation.prepare)
        algorithm = fedadam(task, local_training(client_lr=0.1, batch_size=10), eta=0.03)
        train(algorithm, federation, num_rounds=rounds, cohort_size=10)
        seconds.append(time.perf_counter() - began)
    return seconds


def in_process(rounds: int, cache: str) -> list[float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.repeat", "--here", "--rounds", str(rounds)]
    environment = os.environ | {compile_cache.VARIABLE: cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    options.add_argument("--here", action="store_true", help="in this process; prints JSON")
    return options


def main() -> None:
    """Prints a line for each call and process."""
    args = make_options().parse_args()
    if args.here:
        print(json.dumps(repeated(args.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "no cache": in_process(args.rounds, "off"),
            "new cache": in_process(args.rounds, folder),
            "the same cache": in_process(args.rounds, folder),
        }
    rows: list[Row] = [
        {"process": name} | {f"call {n} s": s for n, s in enumerate(seconds, 1)}
        for name, seconds in found.items()
    ]
    ratios = {
        "second call, no cache / cache": Ratio(found["no cache"][1] / found["new cache"][1]),
        "first call, no cache / the same cache": Ratio(
            found["no cache"][0] / found["the same cache"][0]
        ),
    }
    publish("repeat", rows, ratios, args.json)


if __name__ == "__main__":
    main()
