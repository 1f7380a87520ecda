"""Rounds of FedAvg with clients one after another, and with the whole cohort at once.

    python -m benchmarks.chunk_width

The federation is synthetic: 100 clients of 60 examples, a cohort of 32, batches of 20.
"""

from __future__ import annotations

import numpy as np

from fedjax_kd.algorithms import fedavg
from fedjax_kd.data import IidPartitioner, from_arrays
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import from_nnx
from fedjax_kd.train import train

CASES = {"logistic": ((28, 28, 1), 50), "mlp": ((28, 28, 1), 20), "cnn_small": ((32, 32, 3), 2)}


def federation(shape: tuple[int, ...]) -> Federation:
    """Random bytes with random labels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (6000, *shape), np.uint8)
    y = rng.integers(0, 10, 6000)
    return federate(from_arrays(x, y, x[:10], y[:10]), IidPartitioner(num_partitions=100))


def rate(model: str, clients: Federation, rounds: int, chunk: int) -> float:
    """Examples a second, compilation left out."""
    task = from_nnx(MODELS[model](clients.input_shape, 10), prepare=clients.prepare)
    algorithm = fedavg(task, local_training(client_lr=0.01, batch_size=20))
    result = train(
        algorithm, clients, num_rounds=rounds, cohort_size=32, eval_every=rounds, chunk=chunk
    )
    return rounds * 32 * 60 / result.seconds.train


def main() -> None:
    """Prints the table."""
    print("| model | chunk 1, examples/s | chunk 32, examples/s | ratio |\n|---|---|---|---|")
    for model, (shape, rounds) in CASES.items():
        clients = federation(shape)
        one, many = (rate(model, clients, rounds, chunk) for chunk in (1, 32))
        print(f"| {model} | {one:.0f} | {many:.0f} | {many / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
