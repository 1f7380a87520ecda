"""FedDF's table: rounds to an accuracy when the server distils, with one architecture or several.

Claims looked at (Lin, Kong, Stich, Jaggi, NeurIPS 2020, arXiv:2006.07242): on CIFAR-10 with
ResNet-8 and 20 clients, a server that lets the average learn from the ensemble of the clients'
models, on unlabelled images of CIFAR-100, needs the fewest rounds to 80 % (Dirichlet 1) or 75 %
(0.1), the more so the more local epochs; and clients of different architectures learn from each
other.

    python -m experiments.server_distillation --data-dir DIR
    python -m experiments.server_distillation --data-dir DIR --size paper --epochs 1 20 40
    python -m experiments.server_distillation --data-dir DIR --several

``DIR`` holds ``cifar10.npz`` and ``cifar100.npz``. The small size has LeNet, fewer epochs, rounds
and steps, of public images as many as one keeps the teachers' answers on, and asks for less: it
looks at the order of the methods, not at the paper's targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

Size = Literal["small", "paper"]

FRACTIONS, EPOCHS, ALPHAS = (0.2, 0.4, 0.8), (1, 20, 40), (1.0, 0.1)
CLIENTS = 20

SHARED: Arguments = {
    "dataset": "cifar10",
    "partition": "dirichlet",
    "num_clients": CLIENTS,
    "public": "cifar100",
    "validation_fraction": 0.1,
    "batch_size": 64,
    "weighting": "uniform",
}
PAPER: Arguments = {"model": "resnet8", "num_rounds": 100, "eval_every": 1, "client_lr": 0.1}
SMALL: Arguments = {"model": "lenet", "eval_every": 1, "client_lr": 0.05, "public_size": 4000}
FEW_EPOCHS, ROUNDS_OF_FEW, ROUNDS_OF_MANY = 5, 15, 6

STEPS: Mapping[Size, int] = {"small": 200, "paper": 10_000}
TARGETS: Mapping[Size, Mapping[float, int]] = {
    "small": {1.0: 35, 0.1: 25},
    "paper": {1.0: 80, 0.1: 75},
}
SEVERAL: Mapping[Size, tuple[str, ...]] = {
    "small": ("lenet", "cnn_small", "mlp:hidden=200"),
    "paper": ("resnet8", "resnet20", "cnn_cifar"),
}


def preset(fraction: float, epochs: int, alpha: float, size: Size = "small") -> Preset:
    """One cell of the table: a fraction of the clients, their epochs, and how skewed they are.

    Example:
      >>> cell = preset(0.4, 20, 0.1, "paper")
      >>> cell.shared["cohort_size"], cell.columns[1]
      (8, 'rounds to 75%')
    """
    small: Arguments = {
        **SMALL,
        "num_rounds": ROUNDS_OF_FEW if epochs <= FEW_EPOCHS else ROUNDS_OF_MANY,
    }
    cohort = round(fraction * CLIENTS)
    own: Arguments = {"alpha": alpha, "cohort_size": cohort, "epochs": epochs}
    return Preset(
        {**SHARED, **(PAPER if size == "paper" else small), **own},
        {
            "fedavg": {},
            "fedprox": {"mu": 0.01},
            "fedavgm": {"beta": 0.2},
            "feddf": {"distil_steps": STEPS[size]},
        },
        ("test accuracy", f"rounds to {TARGETS[size][alpha]}%", "seconds"),
    )


def architectures(size: Size = "small") -> Preset:
    """Three architectures behind one server, with and without distillation.

    Example:
      >>> architectures("paper").shared["models"]
      ('resnet8', 'resnet20', 'cnn_cifar')
    """
    shared = {k: v for k, v in preset(0.4, 1, 1.0, size).shared.items() if k != "model"}
    return Preset(
        {**shared, "models": SEVERAL[size]},
        {"feddf-0": {"distil_steps": 0}, "feddf": {"distil_steps": STEPS[size]}},
        ("test accuracy", *(f"group {number}" for number in range(len(SEVERAL[size]))), "seconds"),
    )


def main(
    *,
    fractions: Sequence[float] = (0.2,),
    epochs: Sequence[int] = (1, 10),
    alphas: Sequence[float] = ALPHAS,
    size: Size = "small",
    several: bool = False,
    choice: Chosen = Choice(Path("runs/server_distillation")),
) -> None:
    """Trains every method in every cell of the table with every seed.

    Args:
      fractions: of the 20 clients in a round; the paper has 0.2, 0.4 and 0.8.
      epochs: of local training; the paper has 1, 20 and 40.
      alphas: of the Dirichlet split, 1 or 0.1.
      size: of network and training: "small" for two CPU cores, "paper" as published.
      several: the run with three architectures, in place of the table.
      choice: which of its runs, on which data, and where they are written.
    """
    cells = {
        f"C{fraction}-E{e}-alpha{alpha}-{size}": preset(fraction, e, alpha, size)
        for alpha in alphas
        for e in epochs
        for fraction in fractions
    }
    presets = {f"several-{size}": architectures(size)} if several else cells
    for text in carry_out_all(f"cifar10-{size}", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
