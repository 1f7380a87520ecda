"""FedGEN and CCVR: knowledge of features, generated on the server, against skewed labels.

Claims looked at: a generator of features, trained on the clients' heads and sent to them, lifts
FedAvg by several points where labels are skewed (Zhu, Hong, Zhou, ICML 2021, arXiv:2105.10056:
MNIST at Dirichlet 0.05 and 0.1, 87.7 to 91.3 % and 90.2 to 93.0 %); and re-training the head alone
on virtual features, once, after training, lifts it too (Luo et al., NeurIPS 2021, arXiv:2106.05001:
CIFAR-10, 68.6 to 71.0 % at Dirichlet 0.5, with MobileNetV2).

    python -m experiments.generated_features mnist --data-dir DIR
    python -m experiments.generated_features mnist --data-dir DIR --slow --alphas 0.05
    python -m experiments.generated_features cifar10 --data-dir DIR

``DIR`` holds ``mnist.npz`` and ``cifar10.npz``. ``ccvr`` is FedAvg until the last round, in which
every client describes its features, so that it can be compared with ``fedavg`` in pairs.
``fedgen-authors`` has the weights of its authors' runs, ``--slow`` their learning rate.
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
RATES: dict[Data, float] = {"mnist": 0.05, "cifar10": 0.02}
SLOW = 0.01
AUTHORS: Arguments = {"method_alpha": 10.0, "beta": 10.0, "decay": 0.98}


def preset(data: Data, alpha: float, size: Size = "small", *, slow: bool = False) -> Preset:
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
        "client_lr": SLOW if slow else RATES[data],
    }
    methods: dict[str, Arguments] = {
        "fedavg": {},
        "fedprox": {"mu": 0.1},
        "fedgen": {},
        "fedgen-authors": AUTHORS,
        "ccvr": {"after": rounds - 1},
    }
    return Preset(shared, methods, ("test accuracy", "worst tenth of clients", "seconds"))


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    alphas: Sequence[float] = ALPHAS,
    size: Size = "small",
    slow: bool = False,
    choice: Chosen = Choice(Path("runs/generated_features")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture a split.

    Args:
      data: which data set.
      alphas: of the Dirichlet splits.
      size: how many rounds: "small" for two CPU cores, "paper" as FedGEN's.
      slow: whether clients learn at the rate of FedGEN's authors.
      choice: which of its runs, on which data, and where they are written.
    """
    kind = f"{size}-slow" if slow else size
    presets = {f"{data}-alpha{a}-{kind}": preset(data, a, size, slow=slow) for a in alphas}
    for text in carry_out_all(f"{data}-{kind}", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
