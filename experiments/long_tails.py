"""FedLoGe's table: a global and personal models where few classes have most of the examples.

Claims looked at (Xiao et al., ICLR 2024, openreview V3j5d0GQgH): on long-tailed data split by a
Dirichlet distribution, features below a fixed sparse classifier, with heads realigned by their
norms (FedLoGe), give a better global model, above all on tail classes, and better personal models,
than FedAvg, methods with a balanced loss (FedROD, FedRS, FedLC) and methods with a head of each
client's own (FedPer, FedRep, FedBABU).

    python -m experiments.long_tails cifar10 --data-dir DIR
    python -m experiments.long_tails cifar100 --data-dir DIR

``DIR`` holds ``cifar10.npz`` and ``cifar100.npz``, whose classes are thinned out exponentially to
a fiftieth and a hundredth. ``--size paper`` has the paper's rounds, and ResNet-18 for both. The
accuracy of head, middle and tail classes is the global model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out
from experiments.results import CLIENTS_MODELS

Data = Literal["cifar10", "cifar100"]
Size = Literal["small", "paper"]

COLUMNS = (
    "test accuracy",
    "head classes",
    "middle classes",
    "tail classes",
    "clients' models",
    "seconds",
)
METHODS: Mapping[str, Arguments] = {
    "fedavg": {},
    "fedavg-finetuned": {"finetune": 10},
    "fedrs": {},
    "fedlc": {},
    "fedper": {},
    "fedrep": {"head_epochs": 1},
    "fedbabu": {},
    "fedrod": {},
    "fedloge": {},
    "fedloge-length1": {"length": 1.0},
}

_IMBALANCE: Mapping[Data, float] = {"cifar10": 50, "cifar100": 100}
# FedLoGe needs as many features as there are classes; a LeNet has 84.
_SMALL_MODEL: Mapping[Data, str] = {"cifar10": "lenet", "cifar100": "cnn_small"}
# FedLoGe's short columns make small steps: chosen on seed 7 of CIFAR-10, for few rounds.
_SMALL_METHODS: Mapping[str, Arguments] = {**METHODS, "fedloge": {"client_lr": 0.1}}
_PAPER: Mapping[Data, Arguments] = {
    "cifar10": {"model": "resnet18", "cohort_size": 8},
    "cifar100": {"model": "resnet18", "cohort_size": 40},
}


def preset(data: Data, size: Size = "small") -> Preset:
    """The federation, and the methods compared on it.

    Example:
      >>> preset("cifar10").shared["imbalance_factor"]
      50
    """
    small = size == "small"
    few: Arguments = {"cohort_size": 8, "num_rounds": 60, "batch_size": 16}
    many: Arguments = {"num_rounds": 500, "epochs": 5, "batch_size": 8}
    return Preset(
        {
            "dataset": data,
            "imbalance_factor": _IMBALANCE[data],
            "partition": "dirichlet",
            "alpha": 0.5,
            "num_clients": 40,
            "client_lr": 0.03,
            "client_momentum": 0.5,
            "eval_every": 10,
            **({**few, "model": _SMALL_MODEL[data]} if small else {**many, **_PAPER[data]}),
        },
        _SMALL_METHODS if small else METHODS,
        COLUMNS,
        CLIENTS_MODELS,
    )


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    size: Size = "small",
    choice: Chosen = Choice(Path("runs/long_tails")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture.

    Args:
      data: which data set.
      size: of network and training: "small" for two CPU cores, "paper" as published.
      choice: which of its runs, on which data, and where they are written.
    """
    print(carry_out(f"{data}-lt-{size}", preset(data, size), choice))


if __name__ == "__main__":
    tyro.cli(main)
