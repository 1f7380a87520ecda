"""Adaptive server optimisers, each tuned: the study of Reddi et al. (2021), arXiv:2003.00295.

Claims looked at: where clients are heterogeneous, FedAdagrad, FedAdam and FedYogi end better than
FedAvg and FedAvgM, most of all on the autoencoder; they are good in a wider region of client and
server learning rates; and tau of about 1e-3 does well.

    python -m experiments.adaptive_federated_optimization mnist --data-dir DIR
    python -m experiments.adaptive_federated_optimization mnist_ae --data-dir DIR --size paper

``DIR`` holds ``mnist.npz`` (with ``train_client``, the writer of each image), ``cifar100.npz``
(with ``train_coarse``) and ``shakespeare.jsonl``. MNIST by writer stands for EMNIST, of which the
paper takes 62 classes of 3400 writers, and as autoencoder for the same; CIFAR-100 is divided by
Pachinko allocation and Shakespeare by role, as in the paper. Stack Overflow is left out.

Two stages, as there. First every method is tuned with one seed: client and server learning rate
and, for the adaptive ones, tau; the best has the lowest loss of local training over the last 100
rounds (or the last fifth of a shorter run). Then the best configuration of each is trained with
three other seeds. ``--size small`` has fewer rounds, a coarser grid and smaller models, for two CPU
cores; ``--smoke`` shrinks everything to less than a minute. A stopped experiment goes on when it is
started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments import adaptive_presets as presets
from experiments.adaptive_presets import METHODS, SMOKE_METHODS, Preset, Size
from experiments.adaptive_tables import (
    TUNED,
    Found,
    Measure,
    final_table,
    region_table,
    rescored,
    tau_table,
)
from fedjax_kd.commands import resume, sweep
from fedjax_kd.engine import compile_cache
from fedjax_kd.report import bands, estimates, figures, landscape, sweeps, table_files
from fedjax_kd.report.sweeps import AXES

TUNING_SEED, FIRST_SEED = 100, 0


def main(
    task: Annotated[Literal["mnist", "mnist_ae", "cifar100", "shakespeare"], tyro.conf.Positional],
    *,
    data_dir: str | None = None,
    size: Size = "small",
    methods: Sequence[str] = (),
    seeds: int = 3,
    out: Path = Path("runs/adaptive"),
    smoke: bool = False,
) -> None:
    """Tunes every method, trains the best configuration of each, and writes tables and pictures.

    Args:
      task: the federation and its model.
      data_dir: where its data are.
      size: of rounds, grid and model: "small" for two CPU cores, "paper" as published.
      methods: only these; by default all, or one of each kind with ``smoke``.
      seeds: of the second stage, from 0 on; tuning has its own.
      out: folder of the sweeps, a folder a task and size.
      smoke: a few rounds and points, to see that it works.
    """
    compile_cache.enable()
    methods = methods or (SMOKE_METHODS if smoke else METHODS)
    chosen = presets.preset(task, size, smoke=smoke)
    if data_dir is not None:
        chosen = replace(chosen, options={**chosen.options, "data_dir": data_dir})
    folder = out / (f"{task}-smoke" if smoke else f"{task}-{size}")
    tuning = swept(folder / "tuning", presets.tuning(chosen, methods, TUNING_SEED))
    best = sweeps.best_by(tuning.points, "method", estimates.goal_of("train_loss"))
    table = [
        {"method": method, **{name: one.point.get(name) for name in TUNED}}
        for method, one in best.items()
        if one is not None
    ]
    table_files.write_table(folder / "best.csv", table)
    left = [str(row["method"]) for row in table]
    several = 2 if smoke else seeds
    arguments = presets.finals(chosen, left, folder / "best.csv", FIRST_SEED, several)
    print(report(chosen, tuning, swept(folder / "final", arguments), folder))


def swept(folder: Path, arguments: Sequence[str]) -> Found:
    """What a sweep finds, which is started, or gone on with if it was stopped."""
    if not (folder / "sweep.json").exists():
        code = sweep.main([*arguments, "--out", str(folder), "--quiet"])
    else:
        code = resume.main([str(folder), "--quiet"])
    if code != 0:
        raise SystemExit(code)
    return read(folder)


def read(folder: Path) -> Found:
    """The tables of a sweep."""
    return Found(
        table_files.read_table(folder / "points.csv"),
        table_files.read_table(folder / "results.csv"),
    )


def report(task: Preset, tuning: Found, final: Found, out: Path) -> str:
    """The tables of a study as Markdown, also in ``tables.md`` beside two pictures."""
    measure = Measure(task.measure, task.last, task.factor)
    text = "\n\n".join(
        [
            final_table(final, measure, task.target),
            region_table(tuning, measure),
            tau_table(tuning, measure),
        ]
    )
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    points = rescored(tuning, measure)
    plane = landscape.draw_landscape(points, AXES, metric=measure.metric, goal=measure.goal)
    figures.save_figure(plane, out / "plane.png")
    lines = {
        str(method): list(sweeps.by_value(rows, "seed").values())
        for method, rows in sweeps.by_value(final.results, "method").items()
    }
    curves = bands.draw_curves(lines, (measure.metric, "train_loss"), target=task.target)
    figures.save_figure(curves, out / "curves.png")
    return text


if __name__ == "__main__":
    tyro.cli(main)
