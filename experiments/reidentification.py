"""FedPAV: who wrote this? Handwriting as a person seen again, with clients of very unequal size.

Claims looked at (Zhuang, Wen, Zhang, Gan, Yin, Zhou, Zhang, Yi, ACM MM 2020, arXiv:2008.11560):
averaging all but the classifiers of identities (FedPAV) helps small clients and costs large ones,
against training alone; votes by how far a client's outputs have moved help; distillation from the
clients' features on shared inputs makes training smoother.

    python -m experiments.reidentification --data-dir DIR

``DIR`` holds ``mnist.npz`` with ``train_client``, the writer of each image. None of the nine data
sets of the paper can be had without a licence, so that its identities are writers here: nine
clients have 4 to 75 writers of their own. What is to be recognised is a tile of four digits of one
writer, since one digit tells little of who wrote it. Eight tiles of each writer, of digits that are
in no other tile, are held out, of which four are looked for among the others, each writer's by two
cameras in turn: a tile must be found by the other camera. Tiles of further writers, unlabelled, are
the shared inputs.
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

WRITERS = (4, 6, 9, 14, 20, 29, 38, 55, 75)  # of each client
HELD_OUT = 8  # tiles of each writer
TRAINED = 24  # those that are trained on
SIDE = 2  # digits along a side of a tile


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
    """Writes tiles of MNIST as a set of writers to be told apart, and tiles of those left over.

    Args:
      data_dir: holds ``mnist.npz``.
      path: of the file, which is left alone if it is there.
    """
    if path.exists():
        return path
    arrays = np.load(data_dir / "mnist.npz")
    x, writer = arrays["train_x"], arrays["train_client"]
    rng = np.random.default_rng(0)
    found, images = np.unique(writer, return_counts=True)
    people = rng.permutation(found[images >= 2 * HELD_OUT * SIDE * SIDE])
    own, apart = people[: sum(WRITERS)], people[sum(WRITERS) :]
    tiles = [_tiles(x[writer == person], rng) for person in own]
    client = np.repeat(np.arange(len(WRITERS)), WRITERS)
    parts: dict[str, NDArray[Any]] = {}
    for place, (part, count) in enumerate((("train", TRAINED), ("test", HELD_OUT))):
        order = rng.permutation(len(own) * count)
        who, turn = np.repeat(np.arange(len(own)), count), np.tile(np.arange(count), len(own))
        parts |= {
            f"{part}_x": np.concatenate([both[place] for both in tiles])[order],
            f"{part}_y": who[order],
            f"{part}_client": client[who][order],
            f"{part}_camera": turn[order] % 2,
            f"{part}_query": turn[order] // 2 % 2,
        }
    others = np.concatenate([_tiles(x[writer == person], rng)[0] for person in apart])
    alike = {"x": others, "y": np.zeros(len(others), np.int64)}  # nobody looks at who they are
    both = {f"{part}_{name}": a for part in ("train", "test") for name, a in alike.items()}
    write_arrays(path.with_name("writers_apart.npz"), both)
    return write_arrays(path, parts)


def _tiles(
    x: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tiles of a writer's images, to train on and held out; the latter have each image once."""
    x, digits = rng.permutation(x), SIDE * SIDE
    held, rest = x[: HELD_OUT * digits], x[HELD_OUT * digits :]
    chosen = np.stack([rng.permutation(len(rest))[:digits] for _ in range(TRAINED)])
    return _tiled(rest[chosen.ravel()]), _tiled(held)


def _tiled(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every four images as one."""
    _, height, width, channels = x.shape
    rows = x.reshape(-1, SIDE, SIDE, height, width, channels).swapaxes(2, 3)
    return rows.reshape(-1, SIDE * height, SIDE * width, channels)


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
