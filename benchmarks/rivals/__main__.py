"""Our simulator, others, and a plain PyTorch loop on the same work, side by side.

    python -m benchmarks.rivals --data DIR [--work w1 digits resnet8] [--json FILE]

``DIR`` holds ``cifar10.npz`` (train_x, train_y, test_x, test_y). Every rival gets an environment of
its own the first time. Prints a table a workload; the JSON file holds the learning curves too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals import environments, launch, measure, same_work, workloads
from benchmarks.rivals.environments import Environment
from benchmarks.rivals.measure import Measurement, say
from benchmarks.rivals.table import table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints tables and writes JSON."""
    options = _options(arguments)
    ready = {system: _ready(system, options) for system in options.systems}
    told: dict[str, Any] = {"machine": _machine(), "command": _command(options), "works": {}}
    for name in options.work:
        told["works"][name] = _work(name, options, ready)
        if options.json is not None:  # after every workload: the next one may take long
            options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def _work(name: str, options: argparse.Namespace, ready: dict[str, Environment]) -> dict[str, Any]:
    """One workload: printed as a table, returned for JSON."""
    work = workloads.WORKS[name]
    say(f"{name}: {work.about}")
    workload = workloads.make(
        work, data_dir=options.data, rounds=options.rounds, eval_every=options.eval_every
    )
    systems = [system for system in options.systems if system in work.systems]
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / f"{name}.npz"
        workloads.write(workload, arrays)
        run = measure.runner(ready, arrays, options.timeout)
        tries = {s: measure.candidates(s, work, options.pfl_processes) for s in systems}
        found = measure.measure(run, tries, workload.settings["rounds"])
    parameters, warmup = workloads.num_parameters(workload), workload.settings["eval_every"]
    found = same_work.judged(found, parameters=parameters, exact=work.exact)
    rounds = workload.settings["rounds"]
    print(
        f"\n## {name}\n\n{work.about}; {parameters:,} parameters, learning rate {work.client_lr}. "
        f"{measure.PASSES} passes of {rounds} rounds, the first {warmup} of each for warm-up.\n"
    )
    print(table(found, cohort_size=work.cohort_size, warmup=warmup), flush=True)
    return {
        "about": work.about,
        "parameters": parameters,
        "settings": workload.settings,
        "systems": {system: _told(m, warmup) for system, m in found.items()},
    }


def _told(measurement: Measurement, warmup: int) -> dict[str, Any]:
    """Everything that is known of one system, for JSON."""
    seen = measure.figures(measurement, warmup)._asdict() if measurement.reports else None
    return measurement._asdict() | {"figures": seen}


def _ready(system: str, options: argparse.Namespace) -> Environment:
    """The environment of a system; says so, since making one takes a minute."""
    given = dict(options.python).get(system)
    if given is not None:
        return Environment(Path(given))
    say(f"environment of {system}")
    return environments.prepare(system, options.envs)


def _pair(word: str) -> tuple[str, str]:
    """``SYSTEM=PATH``, taken apart."""
    system, sign, path = word.partition("=")
    if not sign or system not in launch.MODULES:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not SYSTEM=PATH with one of {', '.join(launch.MODULES)}."
        )
    return system, path


def _machine() -> dict[str, Any]:
    """Where this was measured."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _command(options: argparse.Namespace) -> str:
    """The command without the folders of this machine."""
    words = ["python -m benchmarks.rivals --work", *options.work, "--systems", *options.systems]
    for name in ("rounds", "eval_every"):
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    words += ["--pfl-processes", *map(str, options.pfl_processes)]
    return " ".join(words)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    works, systems = list(workloads.WORKS), list(launch.MODULES)
    parser.add_argument("--work", nargs="+", choices=works, default=works)
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--rounds", type=int, help="of every run, instead of each work's own")
    parser.add_argument("--eval-every", type=int, help="rounds; as many are warm-up")
    parser.add_argument("--data", type=Path, help="folder of cifar10.npz")
    parser.add_argument("--envs", type=Path, default=environments.default_folder())
    parser.add_argument(
        "--python",
        type=_pair,
        nargs="+",
        default=[],
        metavar="SYSTEM=PATH",
        help="interpreters that have a system already; no environment is made for it",
    )
    parser.add_argument("--json", type=Path, help="where to write everything")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one run")
    parser.add_argument(
        "--pfl-processes", type=int, nargs="+", default=[1, 2], help="numbers to be tried"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
