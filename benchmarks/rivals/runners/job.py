"""What all runners share: reading a workload, timing, and the report. Needs NumPy alone."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Evaluation = tuple[float, float]
"""Mean loss (nats) and accuracy on the test set."""


class Job(NamedTuple):
    """A workload as read; see `benchmarks.rivals.workloads` for the names of its arrays."""

    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The initial weights by name, in the order of the network."""
        start = "weights/"
        return {k.removeprefix(start): v for k, v in self.arrays.items() if k.startswith(start)}

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, as the workload has them."""
        return sum(w.size for w in self.weights.values())

    def standardised(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes as the networks want them, channel by channel."""
        values = x.astype(np.float32)
        values -= self.arrays["mean"]
        values /= self.arrays["std"]
        return values

    def client(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Standardised images and labels of one client."""
        rows = self.arrays["clients"][number]
        return self.standardised(self.arrays["train_x"][rows]), self.arrays["train_y"][rows]

    def test(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Standardised images and labels of the test set; of its first rows in a short trial."""
        rows = slice(self.settings.get("test_rows"))
        return self.standardised(self.arrays["test_x"][rows]), self.arrays["test_y"][rows]

    def evaluates(self, finished: int) -> bool:
        """Whether the model is evaluated after so many rounds."""
        return finished % self.settings["eval_every"] == 0


class Measured(NamedTuple):
    """What a run took and learned. ``setup`` counts from the start of the process."""

    setup: float
    rounds: list[float]
    evaluations: list[float]
    curve: list[tuple[int, float, float]]


def from_arguments() -> Job:
    """The workload named on the command line."""
    return read(sys.argv[1], sys.argv[2])


@lru_cache(maxsize=1)
def read(arrays: str, settings: str) -> Job:
    """A workload from its two files, read once a process."""
    with np.load(arrays) as stored:
        held = {name: stored[name] for name in stored.files}
    return Job(json.loads(Path(settings).read_text(encoding="utf-8")), held)


def since_start(job: Job) -> float:
    """Seconds since this process was started."""
    return time.time() - job.settings["spawned_at"]


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and how long that took."""
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


def loop(
    job: Job, one_round: Callable[[int], None], evaluate: Callable[[], Evaluation]
) -> Measured:
    """Trains and evaluates, for systems that leave the loop over rounds to their user.

    Args:
      job: the workload.
      one_round: trains round number 0, 1, ...; returns when the device has finished.
      evaluate: of the present model.
    """
    setup = since_start(job)
    seen, spent = timed(evaluate)
    measured = Measured(setup, [], [spent], [(0, *seen)])
    for number in range(job.settings["rounds"]):
        measured.rounds.append(timed(one_round, number)[1])
        if job.evaluates(number + 1):
            seen, spent = timed(evaluate)
            measured.evaluations.append(spent)
            measured.curve.append((number + 1, *seen))
    return measured


def report(measured: Measured, *, parameters: int, device: str, packages: tuple[str, ...]) -> None:
    """Writes the report to the file named on the command line.

    Args:
      measured: times and the learning curve.
      parameters: of the model that was really trained.
      device: where.
      packages: whose versions are named, the system itself first.
    """
    told = {
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "device": device,
        "parameters": parameters,
        "setup_seconds": measured.setup,
        "round_seconds": measured.rounds,
        "evaluation_seconds": measured.evaluations,
        "curve": measured.curve,
    }
    Path(sys.argv[3]).write_text(json.dumps(told), encoding="utf-8")
