"""Waiting for slow clients, or not: synchronous rounds and asynchronous steps in simulated time.

Claims looked at: FedBuff reaches an accuracy several times faster than synchronous training
(AISTATS 2022, arXiv:2106.06639); over-commitment and deadlines shorten rounds at the price of the
slow clients' data (arXiv:1902.01046); partial work is better than none (arXiv:1812.06127).

    python -m experiments.asynchrony --data-dir DIR

``DIR`` holds ``mnist.npz``. Clients' speeds are log-normal, and the same for all seeds. All
methods make the same number of client updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

SIGMAS = (0.6, 1.2)
TARGET = 90  # per cent
_ROUNDS, _COHORT = 100, 10

SHARED: Arguments = {
    "dataset": "mnist",
    "partition": "dirichlet",
    "alpha": 0.3,
    "num_clients": 100,
    "cohort_size": _COHORT,
    "num_rounds": _ROUNDS,
    "eval_every": 2,
    "model": "mlp",
    "hidden": (200, 200),
    "client_lr": 0.05,
    "batch_size": 20,
    "weighting": "uniform",
}

ONE_BY_ONE: Arguments = {
    "cohort_size": 1,
    "num_rounds": _ROUNDS * _COHORT,
    "eval_every": 2 * _COHORT,
    "rounds_per_dispatch": 2 * _COHORT,
}
METHODS: Mapping[str, Arguments] = {
    "fedavg": {},
    "fedavg-deadline": {"deadline": 15.0},
    "fedavg-partial": {"deadline": 15.0, "late": "partial"},
    "fedavg-overcommit": {"over_commitment": 1.3},
    "fedavg-fedbuff": {"concurrency": 30, "with": ("fedbuff",)},
    "fedprox-fedasync": {**ONE_BY_ONE, "concurrency": 30, "with": ("fedasync",), "mu": 0.005},
}


def preset(sigma: float) -> Preset:
    """The federation with speeds of this spread, and who is compared in it.

    Example:
      >>> preset(0.6).shared["fleet"]
      'lognormal:forward_ms=5,sigma=0.6,mbit=20'
    """
    fleet = f"lognormal:forward_ms=5,sigma={sigma:g},mbit=20"
    return Preset(
        {**SHARED, "fleet": fleet},
        METHODS,
        (
            *("test accuracy", "worst tenth of clients", f"simulated seconds to {TARGET}%"),
            *(f"client updates to {TARGET}%", f"MB to {TARGET}%", "seconds"),
        ),
        along="simulated_seconds",
    )


def main(
    *, sigmas: Sequence[float] = SIGMAS, choice: Chosen = Choice(Path("runs/asynchrony"))
) -> None:
    """Trains every method at every spread of speeds with every seed; writes tables and pictures.

    Args:
      sigmas: standard deviations of the logarithm of the speeds.
      choice: which of its runs, on which data, and where they are written.
    """
    presets = {f"speeds-{sigma:g}": preset(sigma) for sigma in sigmas}
    for text in carry_out_all("asynchrony", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
