"""Curves by round or by its cost: of one run, or the mean of several with a band for the spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from fedjax_kd.report import figures
from fedjax_kd.report.axes import NAMES, Along, places_of
from fedjax_kd.report.estimates import number
from fedjax_kd.report.table_files import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEEP = 100  # times the smallest value
_APART = 10  # times as far as the shortest curve: on a linear axis that one would be a stroke

Spread = Literal["range", "deviation"]
Seeds = Sequence[Sequence[Record]]
"""The rows of each seed."""


class Band(NamedTuple):
    """A metric over seeds, by round; ``places`` are those of the rounds on an axis."""

    rounds: list[int]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    places: np.ndarray


def band(seeds: Seeds, metric: str, spread: Spread = "range", along: Along = "round") -> Band:
    """Mean and spread of a metric in the rounds in which every seed has it and it is finite.

    Args:
      seeds: the rows of each seed.
      metric: a column.
      spread: "range" of the seeds, or one "deviation" (of the sample) to either side of the mean.
      along: the axis; where seeds differ in what a round costs, it is their mean.

    Example:
      >>> seeds = [[{"round": 5, "loss": 1.0}], [{"round": 5, "loss": 2.0}]]
      >>> band(seeds, "loss").mean.tolist()
      [1.5]
    """
    curves = [
        {int(number(row["round"])): number(row.get(metric)) for row in rows} for rows in seeds
    ]
    shared = set.intersection(*map(set, curves)) if curves else set()
    rounds = sorted(n for n in shared if all(math.isfinite(curve[n]) for curve in curves))
    values = np.array([[curve[n] for n in rounds] for curve in curves], np.float64)
    if not rounds:
        return Band([], *[np.zeros(0)] * 4)
    mean, places = values.mean(axis=0), _places(seeds, rounds, along)
    if spread == "range" or len(seeds) == 1:
        return Band(rounds, mean, values.min(axis=0), values.max(axis=0), places)
    deviation = values.std(axis=0, ddof=1)
    return Band(rounds, mean, mean - deviation, mean + deviation, places)


def _places(seeds: Seeds, rounds: Sequence[int], along: Along) -> np.ndarray:
    """Where rounds lie on an axis, over seeds."""
    found = []
    for rows in seeds:
        numbers = (int(number(row["round"])) for row in rows)
        at = dict(zip(numbers, places_of(rows, along), strict=True))
        found.append([at[n] for n in rounds])
    return np.mean(np.array(found, np.float64), axis=0)


def draw_curves(
    lines: Mapping[str, Seeds],
    metrics: Sequence[str] = ("test_accuracy",),
    *,
    along: Along = "round",
    spread: Spread = "range",
    untrained: bool = False,
    title: str = "",
    target: float | None = None,
    size: tuple[float, float] = (6.4, 4.2),
) -> Figure:
    """Metrics along an axis: a panel a metric, a line a method or run, a band over its seeds.

    Args:
      lines: the rows of each seed, by name.
      metrics: columns; those in which nothing is known leave their panel empty.
      along: rounds, or what these have cost so far.
      spread: see `band`.
      untrained: whether round 0 is drawn. It is before any training, and squeezes what follows.
      title: of the whole.
      target: of the first metric, drawn as a line.
      size: of a panel, in inches.
    """
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure((size[0] * len(metrics), size[1]), dpi=150, layout="constrained")
        places = figure.subplots(1, len(metrics), squeeze=False)[0]
        for place, metric in zip(places, metrics, strict=True):
            found = {n: band(s, metric, spread, along) for n, s in lines.items()}
            _draw_panel(place, found, untrained)
            place.set_xlabel(NAMES[along])
            place.set_ylabel(figures.label_of(metric) + _unit(metric, lines))
        figures.add_names(figure)
        if target is not None:
            places[0].axhline(target, color=figures.GREY, linestyle=":", linewidth=1)
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_panel(place: Axes, bands: Mapping[str, Band], untrained: bool) -> None:
    """The curves of one metric."""
    from matplotlib.ticker import MaxNLocator

    for order, (name, (rounds, mean, low, high, where)) in enumerate(bands.items()):
        start = 1 if len(rounds) > 1 and rounds[0] == 0 and not untrained else 0
        style = figures.line_style(order) | {"marker": "o" if len(rounds) == 1 + start else None}
        place.plot(where[start:], mean[start:], label=name, **style)
        if (low < high).any():  # one seed has no spread
            area = (where[start:], low[start:], high[start:])
            place.fill_between(*area, color=style["color"], alpha=0.15, linewidth=0)
    if _is_steep([value for each in bands.values() for value in each.mean[1:]]):
        place.set_yscale("log")
    ends = [float(each.places[-1]) for each in bands.values() if each.rounds]
    if max(ends, default=0.0) > _APART * min(ends, default=0.0) > 0:
        place.set_xscale("log")
    else:
        place.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    place.grid(alpha=0.3)
    place.margins(x=0.01)


def _unit(metric: str, lines: Mapping[str, Seeds]) -> str:
    """The unit of a loss: that of labels, or of values if rows know no accuracy of any kind."""
    if metric not in ("test_loss", "train_loss", "judged_loss"):
        return ""
    known = {name for seeds in lines.values() for rows in seeds for row in rows for name in row}
    of_values = "test_loss" in known and not any("accuracy" in name for name in known)
    return " (mean squared error)" if of_values else " (nats)"


def _is_steep(values: Sequence[float]) -> bool:
    """Whether all but the beginning of a curve would lie flat on a linear axis."""
    return min(values, default=0.0) > 0 and max(values) > _STEEP * min(values)
