"""What privacy costs: accuracy at an epsilon, for several methods.

Settings of pfl-research's benchmarks: a delta of 1e-6, a population of a million, the noise of a
cohort of 1000 on a simulated one of 50, accounted for as Poisson sampling.

    python -m experiments.private_learning --data-dir DIR

``DIR`` holds ``mnist.npz``. Needs ``pip install 'fedjax-kd[dp]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

EPSILONS = (0.5, 2.0, 8.0)
SHARED: Arguments = {
    "dataset": "mnist",
    "partition": "dirichlet",
    "alpha": 0.3,
    "num_clients": 200,
    "cohort_size": 50,
    "num_rounds": 60,
    "eval_every": 5,
    "model": "mlp",
    "hidden": (100,),
    "client_lr": 0.05,
    "batch_size": 20,
    "delta": 1e-6,
    "users": 1_000_000,
    "noise_cohort": 1000,
    "assume": "poisson",
    "with": ("privacy:clip=0.5",),
}
METHODS: Mapping[str, Arguments] = {
    "fedavg": {},
    "fedadam": {"server_lr": 0.01},
    "scaffold": {},
    "fedntd": {},
}


def preset(epsilon: float) -> Preset:
    """The federation with a budget, and the methods that keep it.

    Example:
      >>> preset(2.0).shared["epsilon"]
      2.0
    """
    return Preset({**SHARED, "epsilon": epsilon}, METHODS, ("test accuracy", "seconds"))


def main(
    *,
    epsilons: Sequence[float] = EPSILONS,
    choice: Chosen = Choice(Path("runs/private_learning")),
) -> None:
    """Trains every method with every budget and every seed; writes tables and pictures.

    Args:
      epsilons: budgets of whole runs.
      choice: which of its runs, on which data, and where they are written.
    """
    presets = {f"privacy-{epsilon:g}": preset(epsilon) for epsilon in epsilons}
    for text in carry_out_all("privacy", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
