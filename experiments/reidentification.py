"""FedPAV: who wrote this? Handwriting as a person seen again, with clients of very unequal size.

Claims looked at (Zhuang, Wen, Zhang, Gan, Yin, Zhou, Zhang, Yi, ACM MM 2020, arXiv:2008.11560):
averaging all but the classifiers of identities (FedPAV) helps small clients and costs large ones,
against training alone; votes by how far a client's outputs have moved help; distillation from the
clients' features on shared inputs makes training smoother.

    python -m experiments.reidentification --data-dir DIR

``DIR`` holds ``mnist.npz`` with ``train_client``, the writer of each image. None of the nine data
sets of the paper can be had without a licence, so that its identities are writers here: nine
clients have 8 to 150 writers of their own. Eight images of each writer are held out, of which four
are looked for among the others, each writer's by two cameras in turn: an image must be found by the
other camera. Images of further writers, unlabelled, are the shared inputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out, trained
from experiments.results import RANK_1, Folders, write_arrays
from fedjax_kd.commands import evaluate
from fedjax_kd.report import table_files
from fedjax_kd.report.estimates import number

Size = Literal["small", "paper"]

WRITERS = (8, 12, 18, 27, 40, 58, 75, 110, 150)  # of each client
HELD_OUT = 8  # images of each writer


def preset(size: Size = "small") -> Preset:
    """Who is compared.

    Example:
      >>> list(preset().methods)
      ['standalone', 'fedavg', 'fedpav', 'fedpav-distance', 'fedpav-kd']
    """
    few = size == "small"
    shared: Arguments = {
        "dataset": "writers",
        "problem": "retrieval",
        "partition": "natural",
        "model": "lenet" if few else "resnet18",
        "cohort_size": len(WRITERS),
        "num_rounds": 30 if few else 300,
        "eval_every": 5 if few else 10,
        "batch_size": 32,
        "client_lr": 0.05,
        "client_momentum": 0.9,
        "weight_decay": 5e-4,
    }
    distils: Arguments = {
        "public": "writers_apart",
        "distil_every": 10,
        "distil_steps": 20,
        "distil_lr": 5e-4,
    }
    return Preset(
        shared,
        {
            "standalone": {},
            "fedavg": {},
            "fedpav": {},
            "fedpav-distance": {"weighting": "distance"},
            "fedpav-kd": distils,
        },
        ("clients' rank-1", "rank-1", "mAP", "seconds"),
        RANK_1,
    )


def writers(data_dir: Path, path: Path) -> Path:
    """Writes MNIST as a set of writers to be told apart, and the images of those left over.

    Args:
      data_dir: holds ``mnist.npz``.
      path: of the file, which is left alone if it is there.
    """
    if path.exists():
        return path
    arrays = np.load(data_dir / "mnist.npz")
    x, writer = arrays["train_x"], arrays["train_client"]
    rng = np.random.default_rng(0)
    people = rng.permutation(np.unique(writer))
    own, apart = people[: sum(WRITERS)], people[sum(WRITERS) :]
    identity = np.full(writer.max() + 1, -1)
    identity[own] = np.arange(len(own))
    client = np.repeat(np.arange(len(WRITERS)), WRITERS)
    order = rng.permutation(np.flatnonzero(identity[writer] >= 0))
    turn = _turns(writer[order])
    held = turn < HELD_OUT
    parts: dict[str, NDArray[Any]] = {}
    for part, rows in (("train", order[~held]), ("test", order[held])):
        who = identity[writer[rows]]
        parts |= {f"{part}_x": x[rows], f"{part}_y": who, f"{part}_client": client[who]}
    for part, seen in (("train", turn[~held]), ("test", turn[held])):
        parts |= {f"{part}_camera": seen % 2, f"{part}_query": seen // 2 % 2}
    others = np.flatnonzero(np.isin(writer, apart))
    alike = {"x": x[others], "y": np.zeros(len(others), np.int64)}  # nobody looks at who they are
    both = {f"{part}_{name}": a for part in ("train", "test") for name, a in alike.items()}
    write_arrays(path.with_name("writers_apart.npz"), both)
    return write_arrays(path, parts)


def _turns(writer: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images of its writer come before each image."""
    turn = np.zeros(len(writer), np.int64)
    for person in np.unique(writer):
        mine = np.flatnonzero(writer == person)
        turn[mine] = np.arange(len(mine))
    return turn


def by_client(folders: Folders) -> str:
    """Rank-1 of each client's model on its own rows as a Markdown table, a row a method."""
    heads = [f"{count} writers" for count in WRITERS]
    lines = [f"| {' | '.join(['method', *heads])} |", f"|{'---|' * (len(heads) + 1)}"]
    for method, runs in folders.items():
        seeds = np.array([_rank_1(run) for run in runs])
        cells = [f"{100 * value:.1f}" for value in seeds.mean(axis=0)]
        lines.append(f"| {' | '.join([method, *cells])} |")
    return "\n".join(lines)


def _rank_1(run: Path) -> list[float]:
    """Of each client of a finished run."""
    if not (run / "clients.csv").exists():
        evaluate.main([str(run)])
    rows = table_files.read_table(run / "clients.csv")
    name = "personal_rank_1" if "personal_rank_1" in rows[0] else "rank_1"
    return [number(row[name]) for row in rows]


def main(*, size: Size = "small", choice: Chosen = Choice(Path("runs/reidentification"))) -> None:
    """Trains every method with every seed, and writes a table and a picture.

    Args:
      size: of network and training: "small" for two CPU cores, "paper" as published.
      choice: which of its runs, on which data, and where they are written.
    """
    if choice.data_dir is None:
        raise SystemExit("The study needs data: give the folder of mnist.npz with --data-dir.")
    made = writers(Path(choice.data_dir), choice.out / "data" / "writers.npz")
    choice, name = replace(choice, data_dir=str(made.parent)), f"reidentification-{size}"
    print(carry_out(name, preset(size), choice))
    print(by_client(trained(name, preset(size), choice)))


if __name__ == "__main__":
    tyro.cli(main)
