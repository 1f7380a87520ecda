"""The workloads of the benchmarks: networks on synthetic clients that all hold equally much."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.convolution import with_lax
from benchmarks.operations import Work, count
from fedjax_kd import (
    MODELS,
    Algorithm,
    Batch,
    Federation,
    IidPartitioner,
    Task,
    blocks,
    fedavg,
    federate,
    from_arrays,
    from_nnx,
    initial_state,
    local_training,
    simulate,
)
from fedjax_kd.train import Progress

_FOREVER = 100_000  # blocks; whoever measures stops before


@dataclass(frozen=True)
class Case:
    """A network, and what a client does with it in one round."""

    model: str
    shape: tuple[int, ...]  # of one example
    classes: int
    batch: int
    steps: int  # of one epoch
    lr: float = 0.05
    options: Mapping[str, Any] = field(default_factory=dict)  # of the network
    rounds: int = 1  # in one dispatch

    @property
    def examples(self) -> int:
        """Examples of each client."""
        return self.batch * self.steps


CASES = {
    "logistic": Case("logistic", (28, 28, 1), 10, 20, 3, rounds=25),
    "digits_mlp": Case("mlp", (8, 8), 10, 10, 2, options={"hidden": (64,)}, rounds=25),
    "mlp": Case("mlp", (28, 28, 1), 10, 20, 3, rounds=5),
    "cnn_small": Case("cnn_small", (32, 32, 3), 10, 20, 3),
    "cnn_emnist": Case("cnn_emnist", (28, 28, 1), 62, 20, 5),
    "cnn_cifar": Case("cnn_cifar", (32, 32, 3), 10, 10, 5),  # pfl-research's CIFAR10-IID
    "resnet8": Case("resnet8", (32, 32, 3), 10, 20, 2),
}


class Rounds(NamedTuple):
    """A simulation that is under way."""

    compile: float  # seconds
    seconds: Iterator[float]  # of one round, the mean over each dispatch


def resized(case: Case, batch: int | None = None, steps: int | None = None) -> Case:
    """The same case with another batch or number of local steps, where one is given."""
    return dataclasses.replace(case, batch=batch or case.batch, steps=steps or case.steps)


def make_federation(case: Case, clients: int) -> Federation:
    """Clients of ``case.examples`` random examples each: bytes, with random labels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (clients * case.examples, *case.shape), np.uint8)
    y = rng.integers(0, case.classes, len(x))
    data = from_arrays(x, y, x[:10], y[:10] * 0, num_classes=case.classes)
    return federate(data, IidPartitioner(num_partitions=clients))


def make_task(case: Case, federation: Federation, *, lax: bool = False) -> Task:
    """The network of a case; with XLA's own convolutions if ``lax``."""
    build = MODELS[case.model](case.shape, case.classes, **case.options)
    return from_nnx(with_lax(build) if lax else build, prepare=federation.prepare)


def make_algorithm(case: Case, federation: Federation, *, lax: bool = False) -> Algorithm:
    """FedAvg with one epoch of SGD."""
    task = make_task(case, federation, lax=lax)
    return fedavg(task, local_training(client_lr=case.lr, batch_size=case.batch))


def is_convolutional(case: Case) -> bool:
    """Whether the network has convolutions."""
    build = MODELS[case.model](case.shape, case.classes, **case.options)
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    return any(isinstance(module, nnx.Conv) for _, module in nnx.iter_modules(model))


def step_work(case: Case, federation: Federation) -> Work:
    """The arithmetic and the traffic of one local step of one client."""
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((case.batch, *case.shape), jnp.uint8),
            jnp.zeros(case.batch, jnp.int32),
            jnp.ones(case.batch),
        )
    )
    return count(make_task(case, federation, lax=True), batch)


def start(
    algorithm: Algorithm, federation: Federation, *, rounds: int = 1, **options: Any
) -> Rounds:
    """Compiles a training of ``rounds`` rounds a dispatch, which goes on as long as it is asked."""
    simulation = simulate(
        algorithm, federation, num_rounds=rounds * _FOREVER, eval_every=rounds, **options
    )
    progress = blocks(simulation, initial_state(simulation))
    first = next(progress)
    return Rounds(first.seconds.compile, _seconds(first, progress))


def fastest(seconds: Iterator[float], budget: float, least: int = 2) -> float:
    """The fewest seconds of a round, of those that fit into about ``budget`` seconds.

    Args:
      seconds: of a round, again and again.
      budget: seconds to spend; a round that is still running is finished.
      least: measurements at least, whatever they cost.
    """
    end = time.perf_counter() + budget
    seen: list[float] = []
    for spent in seconds:
        seen.append(spent)
        if len(seen) >= least and time.perf_counter() > end:
            break
    return min(seen)


def measure(
    algorithm: Algorithm, federation: Federation, *, budget: float, least: int = 2, **options: Any
) -> tuple[float, float]:
    """Seconds of compilation and, at best, of a round; options as of `start`."""
    running = start(algorithm, federation, **options)
    return running.compile, fastest(running.seconds, budget, least)


def _seconds(before: Progress, progress: Iterator[Progress]) -> Iterator[float]:
    """Wall-clock time of each block a round, evaluation left out."""
    for _ in itertools.count():
        began = time.perf_counter()
        now = next(progress)
        spent = time.perf_counter() - began
        spent -= now.seconds.evaluate - before.seconds.evaluate
        yield spent / (now.finished - before.finished)
        before = now
