"""Curves of runs, drawn from what their folders hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedjax_kd.report.figures import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_KINDS = (".png", ".pdf", ".svg")
_DASHES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One run in a picture."""

    name: str
    rows: Sequence[Mapping[str, float]]


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of line ``number`` of a picture; 28 lines can be told apart."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
        "linewidth": 1.6,
    }


def curve(
    runs: Sequence[Curve],
    path: str | os.PathLike[str],
    metrics: Sequence[str] = (),
) -> Path:
    """Metrics by round as PNG, a panel a metric and a line a run.

    Args:
      runs: names and rows; a row without a metric is left out of its line.
      path: of the picture.
      metrics: columns of metrics.csv; by default accuracy (if there is any) and loss.

    Raises:
      ValueError: if no run has one of the metrics, or the picture's kind is unknown.
    """
    metrics = metrics or _usual(runs)
    _check(runs, metrics)
    if Path(path).suffix not in _KINDS:
        raise ValueError(f"The picture is {path}, but must end in {', '.join(_KINDS)}.")
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.2 * len(metrics), 3.8), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _draw(axes, runs, metric)
        figure.savefig(path)
    return Path(path)


def _usual(runs: Sequence[Curve]) -> Sequence[str]:
    """Accuracy and loss, or the loss alone where targets are no labels."""
    return ("test_loss",) if _of_values(runs) else ("test_accuracy", "test_loss")


def _of_values(runs: Sequence[Curve]) -> bool:
    """Whether the runs were evaluated, but on targets that are values and no labels."""
    known = {name for run in runs for row in run.rows for name in row}
    return "test_loss" in known and "test_accuracy" not in known


def _draw(axes: Axes, runs: Sequence[Curve], metric: str) -> None:
    """One panel."""
    for number, run in enumerate(runs):
        points = [(row["round"], row[metric]) for row in run.rows if metric in row]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=run.name,
                **line_style(number),
                marker="o" if len(points) == 1 else None,
            )
    axes.set_xlabel("round")
    unit = " (mean squared error)" if _of_values(runs) else " (nats)"
    axes.set_ylabel(label_of(metric) + (unit if metric in ("test_loss", "train_loss") else ""))
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize="small" if len(runs) < 6 else "x-small")


def _check(runs: Sequence[Curve], metrics: Sequence[str]) -> None:
    """Raises ValueError unless every metric is known to some run."""
    known = list(dict.fromkeys(name for run in runs for row in run.rows for name in row))
    for metric in metrics:
        if metric not in known:
            names = ", ".join(name for name in known if name not in ("round", "seconds"))
            raise ValueError(
                f"No run has the metric {metric!r}; there are: {names or 'none yet, not a row'}."
            )
