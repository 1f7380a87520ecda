"""A sweep in one program against the same runs one after another, compilation included.

    python -m benchmarks.sweep
    python -m benchmarks.sweep --work mnist --data DIR --settings 12 --seeds 1 --singles 4

24 settings of FedAdam (server and client learning rate) with 3 seeds. The single runs are calls of
``train`` in this process, without the cache of compiled programs, which neither side uses;
``--settings`` and ``--seeds`` take fewer, which can only make the sweep look dearer;
``--singles`` runs some of the points, evenly chosen, and scales. "arithmetic" is the ratio without
compilation on both sides: what is left of it where runs are very long. ``DIR`` holds ``mnist.npz``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

import fedjax_kd as fk
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd.sweeps.rounds import Step
from fedjax_kd.train import Seconds


@dataclass(frozen=True)
class Work:
    """A federation, a network and how long it is trained."""

    dataset: str
    model: str
    partitioner: Any
    rounds: int
    batch: int
    goal: float  # of sweep / single runs; lower is better
    model_options: Mapping[str, Any] = field(default_factory=dict)


WORKS = {
    "digits": Work(
        "digits",
        "mlp",
        lambda seed: fk.DirichletPartitioner(100, 0.1, seed=seed, min_partition_size=2),
        100,
        10,
        0.25,
        {"hidden": (64,)},
    ),
    "mnist": Work(
        "mnist",
        "cnn_emnist",
        lambda seed: fk.DirichletPartitioner(600, 1.0, seed=seed),
        5,
        20,
        0.6,
    ),
}


def settings_of() -> list[dict[str, Any]]:
    """The 24 settings, none of which diverges."""
    return fk.grid(
        server_lr=fk.Range(0.003, 0.03).points(6), client_lr=fk.Range(0.01, 0.1).points(4)
    )


def measured(work: Work, args: argparse.Namespace) -> list[Row]:
    """Seconds of the sweep, and of single runs scaled to all of them."""
    dataset = fk.load(work.dataset, data_dir=args.data)
    federations = {n: fk.federate(dataset, work.partitioner(n)) for n in range(args.seeds)}
    first = federations[0]
    build = fk.MODELS[work.model](first.input_shape, first.num_classes, **work.model_options)
    task = fk.from_nnx(build, prepare=first.prepare)
    options: dict[str, Any] = {"num_rounds": work.rounds, "cohort_size": 10, "eval_every": 10}

    def make(server_lr: Any, client_lr: Any) -> fk.Algorithm:
        fit = fk.local_training(client_lr=client_lr, batch_size=work.batch)
        return fk.fedadam(task, fit, eta=server_lr)

    settings, compiling = settings_of()[:: 24 // args.settings], [0.0]

    def note(step: Step) -> None:
        compiling[0] = step.seconds.compile

    began = time.perf_counter()
    points = fk.sweep(
        make, federations, settings, seeds=tuple(federations), on_step=note, **options
    )
    together = time.perf_counter() - began
    jax.clear_caches()
    chosen = points[:: -(-len(points) // args.singles)]
    began, spent = time.perf_counter(), Seconds()
    for point in chosen:
        algorithm = make(**point.setting)
        result = fk.train(algorithm, federations[point.seed], seed=point.seed, **options)
        spent = Seconds(*(a + b for a, b in zip(spent, result.seconds, strict=True)))
        same = result.history[-1]["test_accuracy"] - point.history[-1]["test_accuracy"]
        if abs(same) > 0.02:
            raise RuntimeError(f"{point.setting}, seed {point.seed}: accuracies differ by {same}.")
    scale = len(points) / len(chosen)
    alone = (time.perf_counter() - began) * scale
    return [
        {"way": "one program", "runs": len(points), "s": together, "compile s": compiling[0]},
        {
            "way": "one after another",
            "runs": len(chosen),
            "s": alone,
            "compile s": spent.compile * scale,
        },
    ]


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--work", choices=WORKS, default="digits", help="(default: %(default)s)")
    add("--data", help="folder of the data set's files")
    add("--settings", type=int, default=24, choices=(6, 12, 24), help="(default: %(default)s)")
    add("--seeds", type=int, default=3, help="(default: %(default)s)")
    add("--singles", type=int, default=72, help="single runs to measure (default: all 72)")
    return options


def main() -> None:
    """Prints a line for each way."""
    args = make_options().parse_args()
    rows = measured(WORKS[args.work], args)
    ours, theirs = ({k: float(r[k]) for k in ("s", "compile s")} for r in rows)
    goal = WORKS[args.work].goal
    ratios = {
        f"{args.work}: single runs / sweep": Ratio(theirs["s"] / ours["s"], 1 / goal),
        f"{args.work}: the same, arithmetic": Ratio(
            (theirs["s"] - theirs["compile s"]) / (ours["s"] - ours["compile s"])
        ),
    }
    publish("sweep", [{"work": args.work, **row} for row in rows], ratios, args.json)


if __name__ == "__main__":
    main()
