"""What `test_distributed` starts in several processes: trainings whose numbers it compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from federations import federation, logistic

from fedjax_kd import cli
from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.core import Algorithm
from fedjax_kd.data import open_store
from fedjax_kd.data.federation import streamed
from fedjax_kd.engine import memory, processes
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.local import local_training
from fedjax_kd.train import train

OPTIONS = {"num_rounds": 5, "cohort_size": 3, "eval_every": 2, "dropout_rate": 0.2}
FIT = local_training(client_lr=0.1, batch_size=4)


def cases(store: Path) -> dict[str, tuple[Algorithm, Any, dict[str, Any]]]:
    """Algorithm, federation and options of each training, by name."""
    stored = streamed(open_store(store))
    return {
        "fedavg": (fedavg(logistic(), FIT), stored, {"chunk": (1, 2)}),
        "scaffold": (scaffold(logistic(), FIT), federation(), {"rounds_per_dispatch": 4}),
    }


def numbers(store: Path, mesh: jax.sharding.Mesh | None) -> dict[str, Any]:
    """Rows and final state of each training, in plain numbers."""
    found = {}
    for name, (algorithm, clients, own) in cases(store).items():
        result = train(algorithm, clients, mesh=mesh, **OPTIONS, **own)
        rows = [{k: v for k, v in row.items() if k != "steps_computed"} for row in result.history]
        state = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(result.state)]
        found[name] = {"rows": rows, "state": state}
    return found


def command(*args: str) -> int:
    """The exit code of a command that succeeds or is interrupted; others end the process."""
    try:
        cli.main(args)
    except SystemExit as exit:
        return int(str(exit.code))
    raise AssertionError("a command exits")


def refusing_once(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """The check of a program's memory, of which the first says that there is too little."""
    refused = []

    def checked(program: Any) -> None:
        if not refused:
            refused.append(program)
            raise memory.TooLargeError("too little")
        check(program)

    return checked


def main(folder: Path) -> None:
    """One process: a run that is interrupted and resumed, then the trainings above."""
    processes.connect(timeout=60)
    here = folder / f"process{jax.process_index()}.json"
    found: dict[str, Any] = {"devices": [jax.device_count(), jax.local_device_count()]}
    run = json.loads((folder / "command.json").read_text())
    found["interrupted"] = command(*run, "--distributed")
    found["finished"] = command("resume", str(folder / "run"), "--distributed", "--quiet")
    found["told"] = processes.by_first(lambda: [jax.process_index(), "a"])
    key = jax.random.key(jax.process_index() + 3)
    told = processes.arrays_by_first({"key": key, "odd": np.array([jax.process_index() == 0])})
    found["key"] = jax.random.key_data(told["key"]).tolist()
    found["odd"] = told["odd"].tolist()
    memory.check_fits = (
        refusing_once(memory.check_fits) if jax.process_index() == 1 else memory.check_fits
    )
    found["numbers"] = numbers(folder / "store", make_mesh())
    here.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
