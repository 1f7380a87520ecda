"""Tasks of the study of adaptive server optimisers, at two sizes, as options of ``fedjax-kd``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments.comparison import Arguments, words

Size = Literal["small", "paper"]

METHODS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
ADAPTIVE = ("fedadagrad", "fedadam", "fedyogi")
SMOKE_METHODS = ("fedavg", "fedavgm", "fedadam")
HALF_DECADE = 10**0.5


@dataclass(frozen=True)
class Preset:
    """One task at one size.

    Attributes:
      options: of ``fedjax-kd run``, but for the rounds.
      num_rounds: to train.
      eval_every: rounds between two evaluations.
      grid: what is tried, by name of the option.
      measure: metric of the final score.
      target: of the column "rounds to".
      tuning_every: rounds between two evaluations while tuning, which looks at the training loss.
    """

    options: Arguments
    num_rounds: int
    eval_every: int
    grid: Mapping[str, str]
    measure: str
    target: float
    tuning_every: int

    @property
    def last(self) -> int:
        """Rounds at the end over which scores are averaged."""
        return min(100, max(self.num_rounds // 5, 1))

    @property
    def factor(self) -> float:
        """Tables show per cent, and thousandths of squared errors as in the paper."""
        return 100 if "accuracy" in self.measure else 1000


PAPER_GRID = {
    "client-lr": f"1e-3:{HALF_DECADE!r}:log8",
    "server-lr": "1e-3:1e1:log9",
    "tau": "1e-5:1e-1:log5",
}
"""Half decades of the rates and decades of tau: the paper's."""


def coarse(clients: str, taus: str = "1e-5,1e-3,1e-1") -> dict[str, str]:
    """Half decades of the client's rate near its best, decades of the server's, some tau."""
    return {"client-lr": clients, "server-lr": "1e-3:1e1:log5", "tau": taus}


MNIST: Arguments = {"dataset": "mnist", "partition": "natural", "batch_size": 20}
AUTOENCODER: Arguments = {**MNIST, "target": "input", "model": "autoencoder"}
CIFAR: Arguments = {
    "dataset": "cifar100",
    "partition": "pachinko",
    "num_clients": 500,
    "examples_per_client": 100,
    "data_seed": 0,
    "batch_size": 20,
    "augment": "crop24_flip",
}
SHAKESPEARE: Arguments = {
    "dataset": "shakespeare",
    "partition": "natural",
    "model": "char_lstm",
    "batch_size": 4,
}

ACCURACY, ERROR = "test_accuracy", "test_loss"

PAPER: Mapping[str, Preset] = {
    "mnist": Preset({**MNIST, "model": "cnn_emnist"}, 1500, 25, PAPER_GRID, ACCURACY, 0.98, 25),
    "mnist_ae": Preset(
        AUTOENCODER,
        3000,
        25,
        {**PAPER_GRID, "client-lr": f"1e-3:{10 * HALF_DECADE!r}:log10"},
        ERROR,
        0.02,
        25,
    ),
    "cifar100": Preset({**CIFAR, "model": "resnet18"}, 4000, 50, PAPER_GRID, ACCURACY, 0.4, 50),
    "shakespeare": Preset(SHAKESPEARE, 1200, 25, PAPER_GRID, ACCURACY, 0.5, 25),
}
"""Rounds, batch sizes, grids and networks of the paper; 10 clients in a round everywhere."""

SMALL: Mapping[str, Preset] = {
    "mnist": Preset(
        {**MNIST, "model": "lenet"},
        30,
        3,
        coarse(f"{0.1 / HALF_DECADE!r}:{HALF_DECADE / 10!r}:log3"),
        ACCURACY,
        0.93,
        30,
    ),
    "mnist_ae": Preset(
        {**AUTOENCODER, "hidden": (64,), "bottleneck": 16},
        200,
        10,
        coarse(f"{HALF_DECADE!r}:{10 * HALF_DECADE!r}:log3"),
        ERROR,
        0.05,
        200,
    ),
    "cifar100": Preset(
        {**CIFAR, "model": "cnn_small"},
        50,
        5,
        coarse(f"{0.1 / HALF_DECADE!r}:{HALF_DECADE / 10!r}:log3"),
        ACCURACY,
        0.1,
        50,
    ),
    "shakespeare": Preset(
        {**SHAKESPEARE, "units": 64, "layers": 1},
        30,
        5,
        coarse(f"{1 / HALF_DECADE!r}:{HALF_DECADE!r}:log3", taus="1e-3,1e-1"),
        ACCURACY,
        0.3,
        30,
    ),
}
"""For two CPU cores: the same clients and batches, smaller networks, fewer rounds, coarser grid."""

SMOKE_MODELS: Mapping[str, Arguments] = {
    "mnist": {"model": "mlp", "hidden": (16,)},
    "mnist_ae": {"hidden": (32,)},
    "cifar100": {"model": "cnn_small", "widths": (4, 4)},
    "shakespeare": {"units": 8, "layers": 1},
}
SMOKE_GRID = {"client-lr": "0.1", "server-lr": "0.1,1", "tau": "1e-3"}


def preset(task: str, size: Size = "small", *, smoke: bool = False) -> Preset:
    """The preset of a task; with ``smoke``, shrunk to four rounds and two points a method.

    Example:
      >>> preset("mnist", "paper").num_rounds, preset("mnist", smoke=True).num_rounds
      (1500, 4)
    """
    found = (PAPER if size == "paper" else SMALL)[task]
    if not smoke:
        return found
    options = {**SMALL[task].options, "cohort_size": 3, **SMOKE_MODELS[task]}
    shrunk = replace(found, num_rounds=4, eval_every=4, tuning_every=4)
    return replace(shrunk, options=options, grid=SMOKE_GRID)


def tuning(task: Preset, methods: Sequence[str], seed: int) -> list[str]:
    """The words after ``fedjax-kd sweep`` of the first stage.

    Args:
      task: the preset.
      methods: to tune.
      seed: of everything random.

    Example:
      >>> tuning(preset("mnist", smoke=True), ["fedavg"], 100)[:5]
      ['fedavg', '--grid', 'client-lr=0.1', '--grid', 'server-lr=0.1,1']
    """
    adaptive = set(methods) & set(ADAPTIVE)
    axes = {name: values for name, values in task.grid.items() if adaptive or name != "tau"}
    grid = [word for name, values in axes.items() for word in ("--grid", f"{name}={values}")]
    every = {"eval_every": task.tuning_every, "seed": seed}
    return [*methods, *grid, *_shared(task), *words(every)]


def finals(task: Preset, methods: Sequence[str], table: Path, seed: int, seeds: int) -> list[str]:
    """The words after ``fedjax-kd sweep`` of the second stage.

    Args:
      task: the preset.
      methods: that were tuned.
      table: a file with the best configuration of each.
      seed: the first one.
      seeds: how many.
    """
    every = {"eval_every": task.eval_every, "seed": seed, "seeds": seeds}
    return [*methods, "--table", str(table), *_shared(task), *words(every)]


def _shared(task: Preset) -> list[str]:
    """Options of both stages; the best has the lowest loss of local training."""
    rule: Arguments = {"metric": "train_loss", "last": task.last, "num_rounds": task.num_rounds}
    return words({**rule, **task.options})
