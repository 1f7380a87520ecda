"""Tables and pictures of repeated runs, made from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedjax_kd.report.plots import line_style
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
        accuracy = _spread([100 * seed[-1]["test_accuracy"] for seed in evaluated])
        worst = _spread([100 * s[-1]["client_accuracy_worst_decile"] for s in evaluated])
        seconds = np.mean([sum(read_summary(folder)["seconds"].values()) for folder in runs])
        lines.append(
            f"| {method} | {accuracy} | {worst} | {_rounds_to(evaluated, target)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def picture(folders: Folders, path: Path, *, title: str) -> Path:
    """Test accuracy by round as PNG: the mean over seeds, and the range between them."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
        axes = figure.subplots()
        for number, (method, runs) in enumerate(folders.items()):
            curves = [
                {r["round"]: r["test_accuracy"] for r in read_rows(f) if "test_accuracy" in r}
                for f in runs
            ]
            # The untrained model says nothing, and would squeeze the rest.
            rounds = sorted(set.intersection(*map(set, curves)))[1:]
            values = np.array([[curve[n] for n in rounds] for curve in curves])
            (line,) = axes.plot(rounds, values.mean(0), label=method, **line_style(number))
            colour = line.get_color()
            axes.fill_between(rounds, values.min(0), values.max(0), color=colour, alpha=0.12)
        axes.set(xlabel="round", ylabel="accuracy on the test set", title=title)
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        axes.legend(frameon=False)
        figure.savefig(path)
    return path


def _spread(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.1f} ± {deviation:.1f}"


def _rounds_to(evaluated: Sequence[Sequence[Mapping[str, float]]], target: float) -> str:
    """The mean over seeds of the first evaluated round at or above the target."""
    first = [
        next((row["round"] for row in seed if row["test_accuracy"] >= target), None)
        for seed in evaluated
    ]
    if any(n is None for n in first):
        return "-"
    return f"{np.mean([n for n in first if n is not None]):.0f}"
