"""Every method on one small federation: what it reaches, and what it sends.

No claim is looked at: the federation is far from those that the methods were made for, and only
FedAvg's learning rate was looked for. The table shows that all of them run from the command line on
the data of one package, and how much travels.

    python -m experiments.every_method
    python -m experiments.every_method --methods fedmd fedgkt

The data are scikit-learn's digits, of which a hundred without labels are public, and a tenth with
labels the server's. Methods whose clients have models of their own are to be judged by "clients'
models", those in which several architectures may meet (FedMD, FedGKT) by nothing else: what a
newcomer would use is untrained. ``fedbn`` is to be compared with ``fedavg-batch``, which has batch
normalisation, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tyro

from experiments import results
from experiments.comparison import Arguments, Choice, Chosen, Preset, trained

SHARED: Arguments = {
    "dataset": "digits",
    "partition": "dirichlet",
    "alpha": 0.3,
    "min_partition_size": 2,
    "num_clients": 20,
    "cohort_size": 10,
    "public": "holdout",
    "public_size": 100,
    "validation_fraction": 0.1,
    "model": "cnn_small",
    "widths": (16, 32),
    "num_rounds": 60,
    "batch_size": 16,
    "epochs": 2,
    "client_lr": 0.1,
}

METHODS: Mapping[str, Arguments] = {
    "fedsgd": {"eta": 0.3, "batch_size": None, "epochs": None, "client_lr": None},
    "fedavg": {},
    "fedavg-batch": {"norm": "batch"},
    "fedavgm": {"eta": 0.3},
    "fedadagrad": {"eta": 0.03},
    "fedadam": {"eta": 0.01},
    "fedyogi": {"eta": 0.01},
    "fedprox": {"mu": 0.1},
    "scaffold": {"client_lr": 0.05},
    "fedntd": {},
    "fedlsd": {},
    "localkd": {},
    "moon": {},
    "fedmixup": {},
    "fedalign": {},
    "fedgradaug": {},
    "feddf": {"distil_steps": 50},
    "fedgen": {},
    "ccvr": {"after": 59},
    "fedkd": {},
    "fedmd": {"alignment": 100},
    "fedgkt": {},
    "standalone": {},
    "fedper": {},
    "fedbn": {"norm": "batch"},
    "perfedavg": {"method_alpha": 0.05, "client_lr": 0.05},
    "pfedhn": {},
    "pfedhn_pc": {},
    "fedsam": {},
    "fedasam": {},
    "mofedsam": {},
    "fedspeed": {"variant": "code"},
    "fedgamma": {"client_lr": 0.05},
    "fedlesam": {},
    "fedlesam_s": {"client_lr": 0.05},
    "fedlesam_d": {},
    "fedpav": {},
    "feddyn": {},
    "fednova": {},
    "fedexp": {},
    "qfedavg": {},
    "feddisco": {},
    "agnostic_fedavg": {},
    "heterofl": {"rates": (1.0, 0.5, 0.25)},
    "feddc": {"client_lr": 0.02},
    "mimelite": {"client_lr": 0.005},
    "mime": {"client_lr": 0.01},
    "fedswa": {},
    "fedmoswa": {},
    "fedlc": {},
    "fedrs": {},
    "fedbabu": {"tune_lr": 0.01},
    "fedrep": {},
    "fedrod": {},
    "fedloge": {"length": 1.0},
    "fedgkd": {},
    "fedcurv": {},
    "ditto": {},
    "apfl": {},
    "pfedme": {},
    "fml": {},
    "fedala": {},
    "knnper": {},
    "hypcluster": {},
    "ifca": {},
    "fedem": {},
    "pfedsim": {"warmup": 30},
    "fedproto": {},
    "fedtgp": {},
    "fd": {},
}

TRAFFIC = "kB a client and round"
COLUMNS = ("clients' models", "worst tenth of clients' models", "test accuracy")


def preset() -> Preset:
    """The federation, and every method on it.

    Example:
      >>> len(preset().methods)
      70
    """
    return Preset(SHARED, METHODS, (*COLUMNS, TRAFFIC, "seconds"))


def main(
    *,
    choice: Chosen = Choice(Path("runs/every_method")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture.

    Args:
      choice: which of its runs, on which data, and where they are written.
    """
    every = preset()
    folders = trained("digits", every, choice)
    print(results.table(folders, every.columns))
    shown = (COLUMNS[0], TRAFFIC)
    path = choice.out / "every_method.png"
    print(results.picture_of_many(folders, path, shown, title="Every method on digits"))


if __name__ == "__main__":
    tyro.cli(main)
