"""Tasks of the study of adaptive server optimisers, at two sizes, as options of ``fedjax-kd``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Size = Literal["small", "paper"]
Options = Mapping[str, str | int | float | tuple[int, ...]]

HALF_DECADE = 10**0.5


@dataclass(frozen=True)
class Preset:
    """One task at one size.

    Attributes:
      options: of ``fedjax-kd run``, but for the rounds.
      num_rounds: to train.
      eval_every: rounds between two evaluations.
      grid: what is tried, by name of the option.
      measure: metric of the final score, and what tables multiply it by.
      target: of the column "rounds to".
    """

    options: Options
    num_rounds: int
    eval_every: int
    grid: Mapping[str, str]
    measure: str
    target: float

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
"""Half decades; the paper's."""

COARSE = {"client-lr": "1e-2:1:log5", "server-lr": "1e-3:1e1:log5", "tau": "1e-4,1e-2"}

MNIST: Options = {"dataset": "mnist", "partition": "natural", "batch_size": 20}
AUTOENCODER: Options = {**MNIST, "target": "input", "model": "autoencoder"}
CIFAR: Options = {
    "dataset": "cifar100",
    "partition": "pachinko",
    "num_clients": 500,
    "examples_per_client": 100,
    "data_seed": 0,
    "batch_size": 20,
    "augment": "crop24_flip",
}
SHAKESPEARE: Options = {
    "dataset": "shakespeare",
    "partition": "natural",
    "model": "char_lstm",
    "batch_size": 4,
}

ACCURACY, ERROR = "test_accuracy", "test_loss"

PAPER: Mapping[str, Preset] = {
    "mnist": Preset({**MNIST, "model": "cnn_emnist"}, 1500, 25, PAPER_GRID, ACCURACY, 0.98),
    "mnist_ae": Preset(
        AUTOENCODER,
        3000,
        25,
        {**PAPER_GRID, "client-lr": f"1e-3:{10 * HALF_DECADE!r}:log10"},
        ERROR,
        0.01,
    ),
    "cifar100": Preset({**CIFAR, "model": "resnet18"}, 4000, 50, PAPER_GRID, ACCURACY, 0.4),
    "shakespeare": Preset(SHAKESPEARE, 1200, 25, PAPER_GRID, ACCURACY, 0.5),
}
"""Rounds, batch sizes, grids and networks of the paper; 10 clients in a round everywhere."""

SMALL: Mapping[str, Preset] = {
    "mnist": Preset({**MNIST, "model": "lenet"}, 50, 5, COARSE, ACCURACY, 0.95),
    "mnist_ae": Preset(
        {**AUTOENCODER, "hidden": (256, 128)},
        100,
        10,
        {**COARSE, "client-lr": f"1:{10 * HALF_DECADE!r}:log4"},
        ERROR,
        0.05,
    ),
    "cifar100": Preset({**CIFAR, "model": "cnn_small"}, 50, 5, COARSE, ACCURACY, 0.1),
    "shakespeare": Preset(
        {**SHAKESPEARE, "units": 64, "layers": 1},
        40,
        10,
        {**COARSE, "client-lr": f"1e-1:{HALF_DECADE!r}:log4"},
        ACCURACY,
        0.3,
    ),
}
"""For two CPU cores: the same clients and batches, smaller networks, fewer rounds, coarser grid."""

SMOKE_MODELS: Mapping[str, Options] = {
    "mnist": {"model": "lenet"},
    "mnist_ae": {"hidden": (32,)},
    "cifar100": {"model": "cnn_small", "widths": (8, 8, 8)},
    "shakespeare": {"units": 16, "layers": 1},
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
    return replace(found, options=options, num_rounds=4, eval_every=2, grid=SMOKE_GRID)


def words(options: Options) -> list[str]:
    """Options as words of a command line.

    Example:
      >>> words({"hidden": (256, 128), "data_dir": "DIR"})
      ['--hidden', '256', '128', '--data-dir', 'DIR']
    """
    each = {f"--{k.replace('_', '-')}": v for k, v in options.items()}
    return [w for k, v in each.items() for w in (k, *map(str, v if isinstance(v, tuple) else [v]))]


def command(
    task: Preset, methods: Sequence[str], grid: Mapping[str, str], seeds: Sequence[int]
) -> list[str]:
    """The words after ``fedjax-kd sweep``.

    Args:
      task: the preset.
      methods: to sweep.
      grid: a specification of values by name; ``tau`` is for the methods that have one.
      seeds: in a row.

    Example:
      >>> command(preset("mnist"), ["fedavg"], {"client-lr": "0.1"}, [100])[:5]
      ['fedavg', '--grid', 'client-lr=0.1', '--seeds', '1']
    """
    axes = [w for name, values in grid.items() for w in ("--grid", f"{name}={values}")]
    goal = ["--metric", "train_loss", "--last", str(task.last)]
    rounds = {"num_rounds": task.num_rounds, "eval_every": task.eval_every}
    options = words({**task.options, **rounds, "seed": seeds[0]})
    return [*methods, *axes, "--seeds", str(len(seeds)), *goal, *options]


def grid_for(methods: Sequence[str], grid: Mapping[str, str]) -> dict[str, str]:
    """A grid without tau if none of the methods has it.

    Example:
      >>> grid_for(["fedavg"], {"client-lr": "0.1", "tau": "1e-3"})
      {'client-lr': '0.1'}
    """
    adaptive = any(method not in ("fedavg", "fedavgm") for method in methods)
    return {name: values for name, values in grid.items() if adaptive or name != "tau"}
