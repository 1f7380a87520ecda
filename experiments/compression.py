"""What a bit of an upload is worth: bytes to an accuracy, for each compressor.

Claims looked at: gradient dropping at 99 % keeps accuracy (Aji and Heafield, 2017,
arXiv:1704.05021); one bit an entry with error feedback is enough (Karimireddy et al., 2019,
arXiv:1901.09847); rotations help uniform quantisation (Suresh et al., 2017, arXiv:1611.00429).

    python -m experiments.compression mnist --data-dir DIR
    python -m experiments.compression cifar10 --data-dir DIR

``DIR`` holds ``mnist.npz`` with writers, and ``cifar10.npz``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

Data = Literal["mnist", "cifar10"]

FEDERATIONS: Mapping[Data, Arguments] = {
    "mnist": {
        "partition": "natural",
        "model": "mlp",
        "hidden": (200, 200),
        "num_rounds": 100,
        "client_lr": 0.05,
    },
    "cifar10": {
        "partition": "dirichlet",
        "alpha": 0.6,
        "num_clients": 100,
        "model": "lenet",
        "num_rounds": 60,
        "client_lr": 0.1,
        "steps": 10,
    },
}
TARGETS: Mapping[Data, int] = {"mnist": 90, "cifar10": 35}  # per cent
SHARED: Arguments = {"cohort_size": 10, "batch_size": 20, "eval_every": 2}

WRAPPERS: Mapping[str, str] = {
    "top10%": "top_k:keep=0.1",
    "top1%": "top_k:keep=0.01,warmup=10",
    "random10%": "random_k:keep=0.1",
    "uniform4bit": "quantise:levels=16",
    "rotated1bit": "quantise:levels=2,rotate=true",
    "qsgd": "qsgd:steps=1",
    "terngrad": "terngrad",
    "drive": "drive",
    "sign": "sign",
    "rank2": "low_rank:rank=2",
    "sketch": "sketch:shrink=10",
    "both10%": "top_k:keep=0.1,way=both",
}
METHODS: Mapping[str, Arguments] = {
    "fedavg": {},
    **{f"fedavg-{name}": {"with": (words,)} for name, words in WRAPPERS.items()},
}


def preset(data: Data) -> Preset:
    """The federation, and the compressors compared on it.

    Example:
      >>> preset("mnist").columns[2]
      'MB up to 90%'
    """
    target = TARGETS[data]
    columns = ("test accuracy", f"rounds to {target}%", f"MB up to {target}%", f"MB to {target}%")
    shared = {"dataset": data, **SHARED, **FEDERATIONS[data]}
    return Preset(shared, METHODS, (*columns, "seconds"), along="megabytes_up")


def main(
    data: Annotated[Data, tyro.conf.Positional],
    *,
    choice: Chosen = Choice(Path("runs/compression")),
) -> None:
    """Trains with every compressor and every seed, and writes table and picture.

    Args:
      data: which data set.
      choice: which of its runs, on which data, and where they are written.
    """
    for text in carry_out_all(f"compression-{data}", {f"compression-{data}": preset(data)}, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
