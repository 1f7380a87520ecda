"""What every system has to do: the same arrays, cohorts, initial weights and hyper-parameters.

A workload is written as one ``.npz`` and one ``.json``, so that any environment can read it. Its
weights are in a neutral layout: HWIO kernels, ``[in, out]`` matrices, images flattened as HWC.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data import Dataset, load

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]

_EVAL_BATCH = 1000
_SHARED = ("model", "batch_size", "epochs", "client_lr")
_EVERYONE = ("ours", "pfl", "fedjax", "flower", "torch")


@dataclass(frozen=True)
class Work:
    """A federation and how it is trained, by FedAvg with local SGD and plain averaging.

    Attributes:
      about: what it is, for the table.
      data: "digits", or the name of a file of the data folder.
      examples: of each client, the same for all: some systems fill a client's last batch up with
        further examples, others make it smaller, and none would do the same work.
      rounds: by default.
      eval_every: rounds between two evaluations; the first so many rounds are warm-up.
      exact: whether nothing is random, so that the curves of all systems must coincide.
      systems: those that can do it.
    """

    about: str
    data: str
    model: Literal["mlp", "cnn_cifar", "resnet8"]
    num_clients: int
    examples: int
    cohort_size: int
    batch_size: int
    epochs: int
    rounds: int
    eval_every: int
    exact: bool = False
    client_lr: float = 0.1
    systems: tuple[str, ...] = _EVERYONE


WORKS: Mapping[str, Work] = {
    "w1": Work(
        "pfl-research's CIFAR10-IID round: CNN with dropout, 1000 clients x 50 images, cohort 50, "
        "batch 10, 1 epoch",
        data="cifar10",
        model="cnn_cifar",
        num_clients=1000,
        examples=50,
        cohort_size=50,
        batch_size=10,
        epochs=1,
        rounds=12,
        eval_every=4,
    ),
    # With one batch a client and no dropout nothing is random.
    "digits": Work(
        "scikit-learn's digits: MLP 64-64-10, 100 clients x 10 images, cohort 100, batch 10, "
        "2 epochs of one step",
        data="digits",
        model="mlp",
        num_clients=100,
        examples=10,
        cohort_size=100,
        batch_size=10,
        epochs=2,
        rounds=60,
        eval_every=10,
        exact=True,
    ),
    "resnet8": Work(
        "CIFAR-10, ResNet-8 with GroupNorm, 100 clients x 500 images, cohort 10, batch 20, 1 epoch",
        data="cifar10",
        model="resnet8",
        num_clients=100,
        examples=500,
        cohort_size=10,
        batch_size=20,
        epochs=1,
        rounds=6,
        eval_every=2,
        systems=("ours", "torch"),
    ),
}


class Workload(NamedTuple):
    """A `Work` with its arrays.

    ``arrays`` holds train_x, train_y, test_x, test_y (uint8 images NHWC, int32 labels), mean and
    std (a channel each, over the training set), clients ``[C, N]`` (rows of the training set),
    cohorts ``[rounds, K]`` (client numbers), and ``weights/NAME`` in the order of the network.
    """

    work: Work
    settings: dict[str, Any]
    arrays: Arrays


def make(
    work: Work,
    *,
    data_dir: Path | None = None,
    rounds: int | None = None,
    eval_every: int | None = None,
    seed: int = 0,
) -> Workload:
    """Draws clients, cohorts and weights.

    Args:
      work: from `WORKS`.
      data_dir: folder of the data set's ``.npz``; not needed for the digits.
      rounds: the work's own number if None; made a multiple of ``eval_every``.
      eval_every: at most a third of the rounds if None.
      seed: of everything that is drawn.
    """
    rounds = work.rounds if rounds is None else rounds
    every = min(work.eval_every, max(1, rounds // 3)) if eval_every is None else eval_every
    rounds = every * math.ceil(rounds / every)
    dataset = load(work.data, data_dir=data_dir)
    deal, ask, init = (np.random.default_rng([seed, purpose]) for purpose in range(3))
    held = deal.permutation(len(dataset.train.y))[: work.num_clients * work.examples]
    cohorts = [ask.choice(work.num_clients, work.cohort_size, replace=False) for _ in range(rounds)]
    image = dataset.train.x.shape[1:]
    weights = initial_weights(init, shapes(work.model, image, dataset.num_classes))
    arrays = _examples(dataset) | {
        "clients": held.reshape(work.num_clients, work.examples),
        "cohorts": np.stack(cohorts),
    }
    settings = {
        "num_classes": dataset.num_classes,
        "rounds": rounds,
        "eval_every": every,
        "eval_batch": _EVAL_BATCH,
        "seed": seed,
    }
    settings |= {name: getattr(work, name) for name in _SHARED}
    return Workload(work, settings, arrays | {f"weights/{name}": w for name, w in weights.items()})


def _examples(dataset: Dataset) -> Arrays:
    """The data set, and what standardises it."""
    train, test = dataset.train, dataset.test
    axes = tuple(range(train.x.ndim - 1))
    return {
        "train_x": train.x,
        "train_y": train.y,
        "test_x": test.x,
        "test_y": test.y,
        "mean": train.x.mean(axes, dtype=np.float64).astype(np.float32),
        "std": train.x.std(axes, dtype=np.float64).astype(np.float32),
    }


def write(workload: Workload, path: Path) -> None:
    """Writes the arrays to ``path`` (.npz) and the settings beside them (.json)."""
    np.savez(path, allow_pickle=False, **workload.arrays)
    path.with_suffix(".json").write_text(json.dumps(workload.settings), encoding="utf-8")


def num_parameters(workload: Workload) -> int:
    """Parameters of the network."""
    return sum(a.size for name, a in workload.arrays.items() if name.startswith("weights/"))


def shapes(model: str, image: tuple[int, ...], num_classes: int) -> Shapes:
    """Shapes of a network's parameters, in the order in which they are used.

    Example:
      >>> shapes("mlp", (8, 8, 1), 10)["hidden.0.kernel"]
      (64, 64)
    """
    if model == "mlp":
        found = _layer("hidden.0", (math.prod(image), 64)) | _layer("head", (64, num_classes))
    elif model == "cnn_cifar":
        side = (image[0] - 4) // 2
        found = (
            _layer("convs.0", (3, 3, image[2], 32))
            | _layer("convs.1", (3, 3, 32, 64))
            | _layer("dense.0", (side * side * 64, 128))
            | _layer("head", (128, num_classes))
        )
    elif model == "resnet8":
        found = _normalised("conv", "norm", (3, 3, image[2], 16))
        for number, (before, after) in enumerate(((16, 16), (16, 32), (32, 64))):
            block = f"blocks.{number}"
            found |= _normalised(f"{block}.conv1", f"{block}.norm1", (3, 3, before, after))
            found |= _normalised(f"{block}.conv2", f"{block}.norm2", (3, 3, after, after))
        found |= _layer("head", (64, num_classes))
    else:
        raise ValueError(f"model is {model!r}, but must be mlp, cnn_cifar or resnet8: take one.")
    return found


def _layer(name: str, kernel: tuple[int, ...]) -> Shapes:
    """A kernel and its bias."""
    return {f"{name}.kernel": kernel, f"{name}.bias": kernel[-1:]}


def _normalised(conv: str, norm: str, kernel: tuple[int, ...]) -> Shapes:
    """A kernel without bias, and the normalisation that follows it."""
    return {f"{conv}.kernel": kernel, f"{norm}.scale": kernel[-1:], f"{norm}.bias": kernel[-1:]}


def initial_weights(rng: np.random.Generator, wanted: Shapes) -> Arrays:
    """Glorot uniform kernels, biases of 0 and scales of 1, as float32."""

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name.endswith("kernel"):
            window = math.prod(shape[:-2])
            limit = math.sqrt(6 / (window * (shape[-2] + shape[-1])))
            return rng.uniform(-limit, limit, shape).astype(np.float32)
        return np.full(shape, 1 if name.endswith("scale") else 0, np.float32)

    return {name: draw(name, shape) for name, shape in wanted.items()}
