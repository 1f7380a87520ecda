"""Personal models: domains that differ in their looks, and clients that differ in their labels.

Claims looked at. On domains (MNIST, USPS, MNIST-M, a client each): normalisation that stays at home
helps each domain (FedBN: Li et al., ICLR 2021, arXiv:2102.07623). On CIFAR-10 with two classes a
client: a head of one's own (FedPer: Arivazhagan et al., 2019, arXiv:1912.00818), an adapted model
(Per-FedAvg: Fallah et al., NeurIPS 2020, arXiv:2002.07948) and a model from a hypernetwork (pFedHN:
Shamsian et al., ICML 2021, arXiv:2103.04628) beat the global model, and training alone.

    python -m experiments.personalisation domains --data-dir DIR
    python -m experiments.personalisation pacs --data-dir DIR
    python -m experiments.personalisation classes --data-dir DIR
    python -m experiments.personalisation dirichlet --data-dir DIR

On CIFAR-10 with two classes a client, and split by a Dirichlet distribution of 0.1, all methods
with models of the clients' own are compared: a part at home, two models, clusters, mixtures.
The baseline to beat is FedAvg whose model every client trains further before it uses it.

``DIR`` holds ``mnist.npz``, ``usps.npz`` and ``mnist_m.npz``; ``pacs.npz``; ``cifar10.npz``. The
domains are brought to 28 x 28 RGB and written to ``out`` once. "Clients' models" are those that
each client uses, its own or else the global one, on its own test rows; "test accuracy" is that of
the model of the server on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray

from experiments import results
from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out, trained
from experiments.results import CLIENTS_MODELS, write_arrays

Task = Literal["domains", "pacs", "classes", "dirichlet"]
Size = Literal["small", "paper"]

SIDE = 28  # pixels of a digit
EXAMPLES = 743  # of each domain, a tenth of the smallest one: the paper's

OWN = ("clients' models", "worst tenth of clients' models", "test accuracy", "seconds")

_DOMAINS: Arguments = {
    "partition": "domain",
    "norm": "batch",
    "batch_size": 32,
    "weighting": "uniform",
}
_SPLITS: Mapping[str, Arguments] = {
    "classes": {"partition": "pathological", "num_classes_per_partition": 2},
    "dirichlet": {"partition": "dirichlet", "alpha": 0.1, "min_partition_size": 20},
}
_HYPERNETWORK: Arguments = {"client_lr": 0.005, "client_momentum": 0.9, "clip_norm": 50.0}
FAMILY: Mapping[str, Arguments] = {
    "standalone": {},
    "fedavg": {},
    "fedavg-finetuned": {"finetune": 20},
    "fedper": {},
    "fedrep": {"head_epochs": 1},
    "fedbabu": {},
    "fedrod": {},
    "perfedavg": {"alpha": 0.1},
    "perfedavg-FO": {"alpha": 0.1, "hessian": "FO"},
    "pfedhn": _HYPERNETWORK,
    "pfedhn_pc": _HYPERNETWORK,
    "ditto": {},
    "pfedme": {},
    "apfl": {},
    "fml": {},
    "fedala": {},
    "knnper": {},
    "hypcluster": {},
    "ifca": {"clusters": 4},
    "fedem": {},
    "pfedsim": {},
}
"""The methods with models of the clients' own, and what each has of its own."""


def domains_preset(name: Task, size: Size) -> Preset:
    """Every domain is one client, all are in every round."""
    few = size == "small"
    own: Arguments = {
        "model": "cnn_small" if few else "resnet8",
        "cohort_size": 3 if name == "domains" else 4,
        "num_rounds": (30 if name == "domains" else 15) if few else 100,
        "eval_every": 5,
        "client_lr": 0.1 if few else 0.01,
    }
    shared = {"dataset": name, **_DOMAINS, **own}
    alone = {k: v for k, v in shared.items() if k != "weighting"}
    weighting = {"weighting": "uniform"}
    return Preset(
        alone,
        {
            "standalone": {},
            "fedavg": weighting,
            "fedprox": {**weighting, "mu": 0.01},
            "fedper": weighting,
            "fedbn": weighting,
        },
        OWN,
        CLIENTS_MODELS,
    )


def family_preset(split: str, size: Size) -> Preset:
    """CIFAR-10 among clients whose labels differ much."""
    few = size == "small"
    rounds = 40 if few else 500
    own: Arguments = {
        "num_clients": 20 if few else 100,
        "cohort_size": 5 if few else 10,
        "num_rounds": rounds,
        "client_lr": 0.02,
        "steps": 15 if few else 50,
        "batch_size": 50,
        "eval_every": 10,
    }
    return Preset(
        {"dataset": "cifar10", "model": "lenet", **_SPLITS[split], **own},
        {**FAMILY, "pfedsim": {"warmup": rounds // 2}},
        OWN,
        CLIENTS_MODELS,
    )


def digits_of_domains(data_dir: Path, path: Path) -> Path:
    """Writes MNIST, USPS and MNIST-M as one data set of three domains, RGB of one size.

    Args:
      data_dir: holds ``mnist.npz``, ``usps.npz`` and ``mnist_m.npz``.
      path: of the file, which is left alone if it is there.
    """
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    found: dict[str, list[NDArray[Any]]] = {}
    for domain in ("mnist", "mnist_m", "usps"):
        file = data_dir / f"{domain}.npz"
        if not file.exists():
            raise ValueError(f"There is no {file}: give the folder of the digits as --data-dir.")
        arrays = np.load(file)
        rows = {"train": rng.permutation(len(arrays["train_y"]))[:EXAMPLES]}
        rows["test"] = np.arange(len(arrays["test_y"]))[:2000]
        for part, chosen in rows.items():
            found.setdefault(f"{part}_x", []).append(_resized(arrays[f"{part}_x"][chosen]))
            found.setdefault(f"{part}_y", []).append(arrays[f"{part}_y"][chosen])
            found.setdefault(f"{part}_domain", []).append(np.full(len(chosen), domain))
    return write_arrays(path, {name: np.concatenate(values) for name, values in found.items()})


def pacs_of_domains(data_dir: Path, path: Path) -> Path:
    """Writes PACS as four domains, a fifth of each held out for tests.

    Args:
      data_dir: holds ``pacs.npz``.
      path: of the file, which is left alone if it is there.
    """
    if path.exists():
        return path
    arrays = np.load(data_dir / "pacs.npz")
    order = np.random.default_rng(0).permutation(len(arrays["y"]))
    cut = len(order) // 5
    written: dict[str, NDArray[Any]] = {}
    for part, rows in {"test": order[:cut], "train": order[cut:]}.items():
        for name in ("x", "y", "domain"):
            written[f"{part}_{name}"] = arrays[name][rows]
    return write_arrays(path, written)


def _resized(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images of one size and three channels."""
    shape = (len(x), SIDE, SIDE, x.shape[-1])
    scaled = jax.image.resize(jnp.asarray(x, jnp.float32), shape, "linear")
    whole = np.rint(np.asarray(scaled)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(whole, (*shape[:3], 3)).copy()


PREPARED: Mapping[str, Callable[[Path, Path], Path]] = {
    "domains": digits_of_domains,
    "pacs": pacs_of_domains,
}


def preset(task: Task, size: Size = "small") -> Preset:
    """The federation of a task and the methods compared on it.

    Example:
      >>> list(preset("classes").methods)[:4]
      ['standalone', 'fedavg', 'fedavg-finetuned', 'fedper']
    """
    return family_preset(task, size) if task in _SPLITS else domains_preset(task, size)


def main(
    task: Annotated[Task, tyro.conf.Positional],
    *,
    size: Size = "small",
    choice: Chosen = Choice(Path("runs/personalisation")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture.

    Args:
      task: "domains" (digits), "pacs", "classes" (CIFAR-10, two a client) or "dirichlet"
        (CIFAR-10).
      size: of the federation and training: "small" for two CPU cores, "paper" nearer the papers.
      choice: which of its runs, on which data, and where they are written.
    """
    if choice.data_dir is None:
        raise SystemExit("The study needs data: give the folder that has them with --data-dir.")
    if task in PREPARED:
        made = PREPARED[task](Path(choice.data_dir), choice.out / "data" / f"{task}.npz")
        choice = replace(choice, data_dir=str(made.parent))
    name, compared = f"{task}-{size}", preset(task, size)
    if task not in _SPLITS:
        print(carry_out(name, compared, choice))
        return
    folders = trained(name, compared, choice)
    print(results.table(folders, compared.columns))
    print(results.picture_of_many(folders, choice.out / f"{name}.png", OWN[:2], title=name))


if __name__ == "__main__":
    tyro.cli(main)
