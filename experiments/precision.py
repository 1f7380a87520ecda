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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import tyro

from fedjax_kd import compile_cache
from fedjax_kd.commands import resume, run
from fedjax_kd.precision import Precision
from fedjax_kd.runs import read_summary

Arguments = Mapping[str, str | int | float]

PRESETS: Mapping[str, Arguments] = {
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
SMOKE: Arguments = {"num_rounds": 2, "eval_every": 1}


def command(options: Arguments, precision: Precision, seed: int) -> list[str]:
    """The words after ``fedjax-kd run``.

    Example:
      >>> command({"num_rounds": 2}, "tf32", 1)
      ['fedavg', '--num-rounds', '2', '--precision', 'tf32', '--seed', '1']
    """
    given = {**options, "precision": precision, "seed": seed}
    return ["fedavg", *(str(w) for k, v in given.items() for w in (f"--{k.replace('_', '-')}", v))]


def table(folders: Mapping[Precision, Sequence[Path]]) -> str:
    """A Markdown table, a row a precision; the first one is what the others are compared with."""
    lines = ["| precision | test accuracy | paired difference | seconds |", "|---|---|---|---|"]
    accuracy, seconds = {}, {}
    for precision, runs in folders.items():
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
    data_dir: str | None = None,
    seeds: int = 3,
    out: Path = Path("runs/precision"),
    smoke: bool = False,
) -> None:
    """Trains with every precision and every seed, and writes a table.

    Args:
      task: the federation.
      data_dir: where its data are.
      seeds: how many, from 0 on.
      out: folder of all runs, one for each precision and seed.
      smoke: two rounds each, to see that it works.
    """
    compile_cache.enable()
    where: Arguments = {} if data_dir is None else {"data_dir": data_dir}
    options = {**PRESETS[task], **(SMOKE if smoke else {}), **where}
    folders: dict[Precision, list[Path]] = {}
    for seed in range(seeds):
        for precision in get_args(Precision):
            folder = out / task / precision / str(seed)
            folders.setdefault(precision, []).append(folder)
            if not (folder / "config.json").exists():
                run.main([*command(options, precision, seed), "--out", str(folder), "--quiet"])
            elif read_summary(folder).get("status") != "finished":
                resume.main([str(folder), "--quiet"])
    print(table(folders))


if __name__ == "__main__":
    tyro.cli(main)
