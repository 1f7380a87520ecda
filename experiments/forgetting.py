"""FedNTD's table: what skewed clients make the global model forget, and who prevents it.

Claims looked at (Lee, Jeong, Shin, Bae, Yun, NeurIPS 2022, arXiv:2106.03097): the more the clients'
labels differ, the more of what the model knew of a class is lost from round to round (F); methods
that distil from the received model what the labels do not say (FedNTD, FedLSD) forget less than
FedAvg, FedProx, SCAFFOLD and MOON, and end higher.

    python -m experiments.forgetting mnist --data-dir DIR
    python -m experiments.forgetting cifar10 --data-dir DIR --splits shards2 dirichlet0.05
    python -m experiments.forgetting mnist --smoke --data-dir DIR

``DIR`` holds ``mnist.npz`` and ``cifar10.npz``. Splits are ``shardsN``, N shards of one label a
client, and ``dirichletA``. ``--size paper`` has the paper's network, rounds and local epochs;
``--constant`` leaves out the decay of the clients' learning rate, without which they forget more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

Data = Literal["mnist", "cifar10"]
Size = Literal["small", "paper"]

SPLITS = (
    *(f"shards{s}" for s in (2, 3, 5, 10)),
    *(f"dirichlet{alpha}" for alpha in (0.05, 0.1, 0.3, 0.5)),
)

SCAFFOLD_LR: Mapping[Data, float] = {"mnist": 0.05, "cifar10": 0.02}

PAPER: Arguments = {
    "model": "cnn_mcmahan",
    "num_rounds": 200,
    "epochs": 5,
    "client_lr": 0.01,
    "lr_decay": 0.99,
}
_SHORT: Arguments = {"num_rounds": 50, "client_lr": 0.02, "lr_decay": 0.96}
SMALL: Mapping[Data, Arguments] = {
    "mnist": {"model": "mlp", "epochs": 2, **_SHORT},
    "cifar10": {"model": "lenet", "steps": 10, **_SHORT},
}
SHARED: Arguments = {
    "num_clients": 100,
    "cohort_size": 10,
    "batch_size": 50,
    "client_momentum": 0.9,
    "weight_decay": 1e-5,
    "eval_every": 5,
    "per_class": True,
}


def methods_of(data: Data) -> Mapping[str, Arguments]:
    """The methods compared, and what each has of its own.

    SCAFFOLD estimates gradients from the way a client went, which momentum makes longer than its
    gradients say: it trains without.
    """
    return {
        "fedavg": {},
        "fedprox": {"mu": 0.1},
        "scaffold": {"client_momentum": 0.0, "client_lr": SCAFFOLD_LR[data]},
        "moon": {"mu": 0.1},
        "fedntd": {},
        "fedlsd": {},
    }


def preset(data: Data, split: str, size: Size = "small", *, constant: bool = False) -> Preset:
    """The federation of a split, and the methods compared on it.

    Raises:
      ValueError: if there is no such split.

    Example:
      >>> preset("mnist", "shards2").shared["num_shards_per_partition"]
      2
    """
    for name in ("shards", "dirichlet"):
        value = split.removeprefix(name)
        if value != split and value.replace(".", "", 1).isdigit():
            break
    else:
        raise ValueError(f"The split {split!r} is none: give one such as {', '.join(SPLITS)}.")
    divided: Arguments = (
        {"partition": "shard", "num_shards_per_partition": int(value)}
        if name == "shards"
        else {"partition": "dirichlet", "alpha": float(value)}
    )
    chosen = PAPER if size == "paper" else SMALL[data]
    rate: Arguments = {"lr_decay": 1.0} if constant else {}
    augment: Arguments = {"augment": "crop_flip"} if data == "cifar10" and size == "paper" else {}
    return Preset(
        {"dataset": data, **divided, **SHARED, **chosen, **augment, **rate},
        methods_of(data),
        ("test accuracy", "forgetting", "seconds"),
    )


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    splits: Sequence[str] = SPLITS,
    size: Size = "small",
    constant: bool = False,
    choice: Chosen = Choice(Path("runs/forgetting")),
) -> None:
    """Trains every method on every split with every seed, and writes tables and pictures.

    Args:
      data: which data set.
      splits: among the clients, such as shards2 or dirichlet0.05.
      size: of network and training: "small" for two CPU cores, "paper" as published.
      constant: whether the clients' learning rate stays what it is at first.
      choice: which of its runs, on which data, and where they are written.
    """
    kind = f"{size}-constant" if constant else size
    presets = {f"{data}-{s}-{kind}": preset(data, s, size, constant=constant) for s in splits}
    for text in carry_out_all(f"{data}-{kind}", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
