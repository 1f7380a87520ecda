"""The score over the hyper-parameters of a sweep, in the picture that suits what was tried.

A plane of rates is a heat map, a random sample of it a cloud of points, and one parameter a line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_kd.errors import InputError
from fedjax_kd.report import figures, heatmap
from fedjax_kd.report.estimates import Goal, goal_of, number
from fedjax_kd.report.sweeps import (
    AXES,
    DIVERGED,
    FINISHED,
    Configuration,
    best,
    by_value,
    configurations,
    plane,
)
from fedjax_kd.report.table_files import CellValue, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_COLUMNS = 3


def axes_of(points: Sequence[Record], parameters: Sequence[str]) -> tuple[str, ...]:
    """The parameters that a picture is drawn over: two, one or none.

    Client and server learning rate before others, and only such that are numbers and vary.

    Args:
      points: of a sweep.
      parameters: of the sweep.

    Example:
      >>> table = [{"method": "fedadam", "tau": t, "client_lr": 0.1} for t in (1e-3, 1e-1)]
      >>> axes_of(table, ["method", "client_lr", "tau"])
      ('tau',)
    """
    first = [name for name in AXES if name in parameters]
    rest = [name for name in parameters if name not in AXES]
    return tuple(name for name in (*first, *rest) if _varies(points, name))[:2]


def draw_landscape(
    points: Sequence[Record],
    axes: Sequence[str],
    *,
    by: str | None = "method",
    metric: str = "test_accuracy",
    goal: Goal | None = None,
) -> Figure:
    """The mean score over seeds, as a picture over one or two parameters.

    Over all other parameters the best value is taken, except in a cloud, which shows everything.

    Args:
      points: of a sweep.
      axes: one or two parameters, the horizontal one first; see `axes_of`.
      by: the parameter that divides panels or lines; None for a single one.
      metric: name of the score.
      goal: whether higher or lower scores are better; by the metric's name if None.

    Raises:
      ValueError: if there is no point, or an axis is no number in any point.
    """
    goal = goal or goal_of(metric)
    _check(points, axes)
    if len(axes) == 1:
        return _lines(points, axes[0], by, metric, goal)
    panels = heatmap.panels(points, axes, by, goal)
    if heatmap.is_grid(panels):
        return heatmap.draw_heatmaps(panels, axes, metric, goal)
    return _clouds(points, axes, by, metric, goal)


def _check(points: Sequence[Record], axes: Sequence[str]) -> None:
    """Raises ValueError unless there is something to draw over these axes."""
    for axis in axes:
        if not any(math.isfinite(number(point.get(axis))) for point in points):
            known = list(dict.fromkeys(n for p in points for n in p))
            raise InputError(
                f"No point has a number {axis!r} to draw over; the columns are "
                f"{', '.join(known) or 'none, for there is no point'}: choose one of them."
            )
    if len(axes) not in (1, 2):
        raise InputError(f"{len(axes)} axes are given, but a picture has one or two: choose them.")


def _varies(points: Sequence[Record], name: str) -> bool:
    values = {point[name] for point in points if point.get(name) is not None}
    return len(values) > 1 and all(math.isfinite(number(value)) for value in values)


def _divided(points: Sequence[Record], by: str | None) -> dict[CellValue, list[Record]]:
    return {None: list(points)} if by is None else by_value(points, by)


def _lines(points: Sequence[Record], axis: str, by: str | None, metric: str, goal: Goal) -> Figure:
    """The best score at each value: mean and range over seeds."""
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure(figsize=(6.0, 3.6), dpi=150, layout="constrained")
        place = figure.subplots()
        divided = _divided(points, by)
        for order, (name, rows) in enumerate(divided.items()):
            line = [(number(x), c) for (x,), c in plane(rows, [axis], goal).items()]
            known = sorted((x, c) for x, c in line if math.isfinite(x))
            _line(place, known, order, "" if name is None else str(name))
        tried = [number(p[axis]) for p in points if p.get(axis) is not None]
        _scale(place.set_xscale, tried)
        place.set_xlim(*_widened(tried))  # crosses alone do not widen the axis
        place.set(xlabel=figures.label_of(axis), ylabel=figures.label_of(metric))
        place.grid(alpha=0.3)
        if len(divided) > 1:
            place.legend(frameon=False)
        _add_marks(figure, points)
    return figure


def _line(place: Axes, known: Sequence[tuple[float, Configuration]], order: int, name: str) -> None:
    """One method: a line through what finished; what did not is marked."""
    style = figures.line_style(order)
    done = [(x, c.score) for x, c in known if c.status == FINISHED]
    xs = [x for x, _ in done]
    place.plot(xs, [s.mean for _, s in done], marker="o", markersize=3.5, label=name, **style)
    low, high = ([f(s.values) for _, s in done] for f in (min, max))
    place.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    hollow = [(x, c.score.mean) for x, c in known if c.status not in (FINISHED, DIVERGED)]
    if hollow:
        rest = {"facecolor": "none", "edgecolor": style["color"], "s": 22}
        place.scatter(*zip(*hollow, strict=True), **rest)
    lost = [x for x, c in known if c.status == DIVERGED]
    foot = [0.02 + 0.035 * order] * len(lost)
    place.scatter(
        lost, foot, marker="x", color=style["color"], transform=place.get_xaxis_transform(), s=22
    )


def _clouds(
    points: Sequence[Record], axes: Sequence[str], by: str | None, metric: str, goal: Goal
) -> Figure:
    """Every configuration as a point of its colour, a panel a method."""
    from matplotlib.figure import Figure

    divided = _divided(points, by)
    columns = min(len(divided), _COLUMNS)
    lines = math.ceil(len(divided) / columns)
    with figures.style():
        figure = Figure(figsize=(3.1 * columns + 1.2, 3.0 * lines), dpi=150, layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        scale = heatmap.colours(configurations(points), goal)
        for place, (name, rows) in zip(places.flat, divided.items(), strict=False):
            _cloud(place, rows, axes, scale, goal)
            place.set(title="" if name is None else str(name))
            place.set(xlabel=figures.label_of(axes[0]), ylabel=figures.label_of(axes[1]))
            place.label_outer()
        for place in places.flat[len(divided) :]:
            place.set_axis_off()
        for name, set_scale in zip(axes, (place.set_xscale, place.set_yscale), strict=True):
            _scale(set_scale, [p.get(name) for p in points])
        heatmap.add_scale(figure, scale, places, metric)
        _add_marks(figure, points, "best")
    return figure


def _cloud(
    place: Axes, points: Sequence[Record], axes: Sequence[str], scale: ScalarMappable, goal: Goal
) -> None:
    """One method."""
    top = best(points, goal)
    for found in configurations(points):
        x, y = (number(found.point.get(axis)) for axis in axes)
        if found.status == DIVERGED:
            place.scatter(x, y, marker="x", color=figures.GREY, s=28)
        elif found.status == FINISHED:
            colour = scale.to_rgba(np.array([found.score.mean]))
            place.scatter(x, y, color=colour, edgecolor="white", linewidth=0.5, s=46)
        else:
            place.scatter(x, y, facecolor="none", edgecolor=figures.GREY, s=28)
        if top is not None and found.config == top.config:
            place.scatter(x, y, facecolor="none", s=110, **heatmap.BEST)
    place.grid(alpha=0.3)


def _add_marks(figure: Figure, points: Sequence[Record], *rings: str) -> None:
    """The legend of the rings, circles and crosses that there are."""
    from matplotlib.lines import Line2D

    statuses = {c.status for c in configurations(points)}
    bare: dict[str, Any] = {"linestyle": "", "color": figures.GREY, "markersize": 6}
    ring = {"markeredgecolor": figures.ACCENT, "markeredgewidth": 2, "markersize": 9}
    hollow = bare | {"marker": "o", "markerfacecolor": "none"}
    marks = [Line2D([], [], label=name, **(hollow | ring)) for name in rings]
    if statuses - {FINISHED, DIVERGED}:
        marks.append(Line2D([], [], label="stopped early or unfinished", **hollow))
    if DIVERGED in statuses:
        marks.append(Line2D([], [], label="diverged with a seed", marker="x", **bare))
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


def _scale(setter: Callable[[str], None], values: Sequence[CellValue]) -> None:
    """A logarithmic axis where the values call for it."""
    if figures.is_log([number(value) for value in values if value is not None]):
        setter("log")


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis: that of the values, and a twentieth more on either side."""
    low, high = min(values), max(values)
    if figures.is_log(values):
        factor = (high / low) ** 0.05
        return low / factor, high * factor
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin
