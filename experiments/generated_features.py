"""FedGEN and CCVR: knowledge of features, generated on the server, against skewed labels.

Claims looked at: a generator of features, trained on the clients' heads and sent to them, lifts
FedAvg by several points where labels are skewed (Zhu, Hong, Zhou, ICML 2021, arXiv:2105.10056:
MNIST at Dirichlet 0.05 and 0.1, 87.7 to 91.3 % and 90.2 to 93.0 %); and re-training the head alone
on virtual features, once, after training, lifts it too (Luo et al., NeurIPS 2021, arXiv:2106.05001:
CIFAR-10, 68.6 to 71.0 % at Dirichlet 0.5, with MobileNetV2).

    python -m experiments.generated_features mnist --data-dir DIR
    python -m experiments.generated_features cifar10 --data-dir DIR --alphas 0.05

``DIR`` holds ``mnist.npz`` and ``cifar10.npz``. ``ccvr`` is FedAvg until the last round, in which
every client describes its features, so that it can be compared with ``fedavg`` in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

Data = Literal["mnist", "cifar10"]
Size = Literal["small", "paper"]

ALPHAS = (0.05, 0.1)
ROUNDS: dict[Size, int] = {"small": 60, "paper": 200}


def preset(data: Data, alpha: float, size: Size = "small") -> Preset:
    """FedGEN's federation: 20 clients, 10 in a round, 20 local steps.

    Example:
      >>> preset("mnist", 0.05).methods["ccvr"]
      {'after': 59}
    """
    rounds = ROUNDS[size]
    shared: Arguments = {
        "dataset": data,
        "partition": "dirichlet",
        "alpha": alpha,
        "num_clients": 20,
        "cohort_size": 10,
        "num_rounds": rounds,
        "eval_every": 5,
        "model": "lenet",
        "batch_size": 32,
        "steps": 20,
        "client_lr": {"mnist": 0.05, "cifar10": 0.02}[data],
    }
    return Preset(
        shared,
        {"fedavg": {}, "fedprox": {"mu": 0.1}, "fedgen": {}, "ccvr": {"after": rounds - 1}},
        ("test accuracy", "worst tenth of clients", "seconds"),
    )


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    alphas: Sequence[float] = ALPHAS,
    size: Size = "small",
    choice: Chosen = Choice(Path("runs/generated_features")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture a split.

    Args:
      data: which data set.
      alphas: of the Dirichlet splits.
      size: how many rounds: "small" for two CPU cores, "paper" as FedGEN's.
      choice: which of its runs, on which data, and where they are written.
    """
    presets = {f"{data}-alpha{alpha}-{size}": preset(data, alpha, size) for alpha in alphas}
    for text in carry_out_all(f"{data}-{size}", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
