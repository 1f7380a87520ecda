"""FedAvg in three precisions: full float32, tf32, and bfloat16 with float32 weights.

Claim looked at: a network that computes in 16 bits and keeps its weights in float32 becomes as
accurate as one that computes in float32 (Micikevicius et al., 2018, arXiv 1710.03740; for bfloat16
without loss scaling: Kalamkar et al., 2019, arXiv 1905.12322).

    python -m experiments.precision digits
    python -m experiments.precision mnist --data-dir DIR

``DIR`` holds ``mnist.npz`` (with ``train_client``, the writer of each image). Runs of one seed
share split, initial weights, cohorts and batches, and are compared in pairs. ``--smoke`` shrinks
both to seconds. A stopped experiment goes on when it is started again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, trained
from experiments.results import Folders
from fedjax_kd.nn.precision import Precision
from fedjax_kd.runs.folder import read_summary

FEDERATIONS: Mapping[str, Arguments] = {
    "digits": {
        "dataset": "digits",
        "partition": "dirichlet",
        "alpha": 0.1,
        "min_partition_size": 2,
        "num_clients": 100,
        "num_rounds": 200,
        "batch_size": 10,
        "client_lr": 0.3,
    },
    "mnist": {
        "dataset": "mnist",
        "partition": "natural",
        "model": "lenet",
        "num_rounds": 60,
        "eval_every": 20,
        "batch_size": 20,
        "client_lr": 0.1,
    },
}


def preset(task: Literal["digits", "mnist"]) -> Preset:
    """FedAvg in every precision.

    Example:
      >>> list(preset("digits").methods)
      ['fedavg-float32', 'fedavg-tf32', 'fedavg-bfloat16']
    """
    each = {f"fedavg-{precision}": {"precision": precision} for precision in get_args(Precision)}
    return Preset(FEDERATIONS[task], each)


def table(folders: Folders) -> str:
    """A Markdown table, a row a precision; the first one is what the others are compared with."""
    lines = ["| precision | test accuracy | paired difference | seconds |", "|---|---|---|---|"]
    accuracy, seconds = {}, {}
    for method, runs in folders.items():
        precision = method.removeprefix("fedavg-")
        summaries = [read_summary(folder) for folder in runs]
        accuracy[precision] = 100 * np.array([s["final_test_accuracy"] for s in summaries])
        seconds[precision] = np.mean([s["seconds"]["train"] for s in summaries])
    first = next(iter(accuracy.values()))
    for precision, values in accuracy.items():
        apart = values - first
        deviation, spread = (np.std(a, ddof=1) if len(a) > 1 else 0.0 for a in (values, apart))
        lines.append(
            f"| {precision} | {values.mean():.2f} ± {deviation:.2f} "
            f"| {apart.mean():+.2f} ± {spread:.2f} | {seconds[precision]:.1f} |"
        )
    return "\n".join(lines)


def main(
    task: Annotated[Literal["digits", "mnist"], tyro.conf.Positional],
    *,
    choice: Chosen = Choice(Path("runs/precision")),
) -> None:
    """Trains with every precision and every seed, and writes a table.

    Args:
      task: the federation.
      choice: which of its runs, on which data, and where they are written.
    """
    folders = trained(task, preset(task), choice)
    print(table(folders))


if __name__ == "__main__":
    tyro.cli(main)
