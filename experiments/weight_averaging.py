"""FedSWA's table: who finds flat minima of skewed clients.

Claims looked at (FedSWA and FedMoSWA, ICML 2025, arXiv:2507.20016): with very different clients
FedSAM is no better than FedAvg; a learning rate that falls inside each round, and a server that
steps past the mean of the clients (FedSWA), generalise better; control variates with momentum on
top (FedMoSWA) are the best, and the more so the more the labels differ.

    python -m experiments.weight_averaging cifar10 --data-dir DIR
    python -m experiments.weight_averaging cifar100 --data-dir DIR

``DIR`` holds ``cifar10.npz`` and ``cifar100.npz``. ``--size paper`` has the paper's network and
rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

Data = Literal["cifar10", "cifar100"]
Size = Literal["small", "paper"]

ALPHAS = (0.1, 0.3, 0.6)

PAPER: Arguments = {
    "model": "resnet18",
    "num_rounds": 300,
    "epochs": 5,
    "client_lr": 0.1,
    "augment": "crop_flip",
    "client_schedule": "cosine:rounds=300",
}
SMALL: Arguments = {
    "model": "lenet",
    "num_rounds": 40,
    "client_lr": 0.1,
    "client_schedule": "cosine:rounds=40",
}
SMALL_STEPS: Mapping[Data, int] = {"cifar10": 10, "cifar100": 20}
SHARED: Arguments = {
    "partition": "dirichlet",
    "num_clients": 100,
    "cohort_size": 10,
    "batch_size": 50,
    "weight_decay": 1e-3,
    "clip_norm": 10.0,
    "eval_every": 5,
}

# FedSWA starts each round at twice the rate, as the paper's FedSWA does, since it falls to a tenth.
METHODS: Mapping[str, Arguments] = {
    "fedavg": {},
    "fedsam": {"rho": 0.05},
    "mofedsam": {"rho": 0.05},
    "scaffold": {},
    "fedswa": {"client_lr": 0.2},
    "fedmoswa": {},
}


def preset(data: Data, alpha: float, size: Size = "small") -> Preset:
    """The federation of Dirichlet(alpha), and the methods compared on it.

    Example:
      >>> preset("cifar10", 0.3).shared["alpha"]
      0.3
    """
    chosen = PAPER if size == "paper" else {**SMALL, "steps": SMALL_STEPS[data]}
    return Preset(
        {"dataset": data, **SHARED, "alpha": alpha, **chosen},
        METHODS,
        ("test accuracy", "worst tenth of clients", "seconds"),
    )


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    alphas: Sequence[float] = ALPHAS,
    size: Size = "small",
    choice: Chosen = Choice(Path("runs/weight_averaging")),
) -> None:
    """Trains every method on every split with every seed, and writes tables and pictures.

    Args:
      data: which data set.
      alphas: of the Dirichlet distributions.
      size: of network and training: "small" for two CPU cores, "paper" as published.
      choice: which of its runs, on which data, and where they are written.
    """
    presets = {f"{data}-dirichlet{a:g}-{size}": preset(data, a, size) for a in alphas}
    for text in carry_out_all(f"averaging-{data}-{size}", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
