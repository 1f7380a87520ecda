"""Curves of single runs, drawn from what their folders hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_kd.errors import InputError
from fedjax_kd.report import bands, figures
from fedjax_kd.report.axes import NAMES, Along, is_known
from fedjax_kd.report.estimates import headline_metric

_PANEL = (5.2, 3.8)  # inches


class Curve(NamedTuple):
    """One run in a picture."""

    name: str
    rows: Sequence[Mapping[str, float]]


def curve(
    runs: Sequence[Curve],
    path: str | os.PathLike[str],
    metrics: Sequence[str] = (),
    *,
    along: Along = "round",
) -> Path:
    """Metrics as a picture, a panel a metric and a line a run.

    Args:
      runs: names and rows; a row without a metric is left out of its line.
      path: of a PNG, PDF or SVG.
      metrics: columns of metrics.csv; by default accuracy (if there is any) and loss.
      along: the axis: rounds, or what these have cost so far.

    Raises:
      ValueError: if no run has one of the metrics, a run does not tell where it is on the axis, or
        the picture's kind is unknown.
    """
    known = list(dict.fromkeys(name for run in runs for row in run.rows for name in row))
    metrics = metrics or _usual(runs)
    _check(known, metrics)
    if lacking := [run.name for run in runs if not is_known(run.rows, along)]:
        raise InputError(
            f"{lacking[0]} does not tell its {NAMES[along]}, along which curves are to be drawn: "
            "draw them along rounds, or give runs in simulated time alone."
        )
    lines = {run.name: [run.rows] for run in runs}
    figure = bands.draw_curves(lines, metrics, along=along, untrained=True, size=_PANEL)
    return figures.save_figure(figure, path)


def _usual(runs: Sequence[Curve]) -> Sequence[str]:
    """What the runs are judged by, and the loss on the test set."""
    headline = headline_metric([row for run in runs for row in run.rows])
    return tuple(dict.fromkeys((headline, "test_loss")))


def _check(known: Sequence[str], metrics: Sequence[str]) -> None:
    """Raises ValueError unless every metric is known to some run."""
    for metric in metrics:
        if metric not in known:
            names = ", ".join(name for name in known if name not in ("round", "seconds"))
            raise InputError(
                f"No run has the metric {metric!r}; there are: {names or 'none yet, not a row'}."
            )
