"""Tables and pictures of repeated runs, made from their folders alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedjax_kd.report import bands, figures
from fedjax_kd.report.estimates import Estimate, rounds_to
from fedjax_kd.runs import read_rows, read_summary

Folders = Mapping[str, Sequence[Path]]
"""The run folders of each method, one a seed."""


def table(folders: Folders, target: float) -> str:
    """A Markdown table, a row a method: mean +- deviation over seeds.

    Args:
      folders: finished runs.
      target: test accuracy of the column "rounds to"; "-" if a seed never reaches it.
    """
    lines = [
        f"| method | test accuracy | worst tenth of clients | rounds to {target:.0%} | seconds |",
        "|---|---|---|---|---|",
    ]
    for method, runs in folders.items():
        rows = [read_rows(folder) for folder in runs]
        evaluated = [[r for r in seed if "test_accuracy" in r] for seed in rows]
        accuracy = _spread(100 * seed[-1]["test_accuracy"] for seed in evaluated)
        worst = _spread(100 * s[-1]["client_accuracy_worst_decile"] for s in evaluated)
        seconds = np.mean([sum(read_summary(folder)["seconds"].values()) for folder in runs])
        lines.append(
            f"| {method} | {accuracy} | {worst} | {_rounds_to(evaluated, target)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def picture(folders: Folders, path: Path, *, title: str) -> Path:
    """Test accuracy by round as PNG: the mean over seeds, and the range between them."""
    lines = {method: [read_rows(f) for f in folders[method]] for method in folders}
    return figures.save(bands.draw(lines, title=title), path)


def _spread(values: Iterable[float]) -> str:
    seeds = Estimate(tuple(values))
    deviation = math.nan if seeds.deviation is None else seeds.deviation
    return f"{seeds.mean:.1f} ± {deviation:.1f}"


def _rounds_to(evaluated: Sequence[Sequence[Mapping[str, float]]], target: float) -> str:
    """The mean over seeds of the first evaluated round at or above the target."""
    found = rounds_to(dict(enumerate(evaluated)), "test_accuracy", target).rounds
    return f"{found.mean:.0f}" if found.seeds else "-"
