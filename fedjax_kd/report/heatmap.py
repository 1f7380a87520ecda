"""Heat maps of the score over two hyper-parameters, a panel a method.

Source: the form is that of Reddi et al., 2021, arXiv:2003.00295.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjax_kd.report import figures
from fedjax_kd.report.estimates import Goal, is_share, number
from fedjax_kd.report.sweeps import DIVERGED, FINISHED, Cell, Configuration, best, by_value, plane
from fedjax_kd.report.table_files import CellValue, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_CELL = 0.46  # inches
_WIDTH = 10.5  # of a row of panels at most
_MOST = 16  # values of an axis; cells of more cannot be read
_FEW = 0.5  # of the plane's cells: fewer are no map
_GREY = (0.92, 0.92, 0.92)  # of what is stopped or unfinished: its score compares with no other's
_DIVERGED: dict[str, Any] = {"facecolor": "#b0b0b0", "edgecolor": "white", "hatch": "/////"}
_LUMINANCE = (0.299, 0.587, 0.114)
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
BEST: dict[str, Any] = {"edgecolor": figures.ACCENT, "linewidth": 2.2}

Colour = tuple[float, float, float]


class Panel(NamedTuple):
    """The cells of one method. ``xs`` and ``ys`` are the values of the axes, None first."""

    name: str
    cells: Mapping[Cell, Configuration]
    best: Configuration | None
    xs: list[float | None]
    ys: list[float | None]


def panels(
    points: Sequence[Record], axes: Sequence[str], by: str | None, goal: Goal
) -> list[Panel]:
    """A panel for each value of a parameter, or a single one if there is none.

    Args:
      points: of a sweep.
      axes: two parameters.
      by: a parameter; None for all points in one.
      goal: whether higher or lower scores are better.
    """
    divided = {"": list(points)} if by is None else by_value(points, by)
    found = []
    for name, rows in divided.items():
        cells = plane(rows, axes, goal)
        xs, ys = (_sorted([cell[i] for cell in cells]) for i in (0, 1))
        found.append(Panel("" if name is None else str(name), cells, best(rows, goal), xs, ys))
    return found


def is_grid(found: Sequence[Panel]) -> bool:
    """Whether most cells were tried, and they are few enough to be read."""
    tried = sum(len(panel.cells) for panel in found)
    there = sum(len(panel.xs) * len(panel.ys) for panel in found)
    longest = max(max(len(panel.xs), len(panel.ys)) for panel in found)
    return tried >= _FEW * there and longest <= _MOST


def draw_heatmaps(found: Sequence[Panel], axes: Sequence[str], metric: str, goal: Goal) -> Figure:
    """Panels on one colour scale; brighter is better.

    Cells that diverged or were stopped early are grey, the best of each panel has a frame.

    Args:
      found: from `panels`.
      axes: names of the horizontal and of the vertical parameter.
      metric: name of the score.
      goal: whether higher or lower scores are better.
    """
    from matplotlib.figure import Figure

    wide, high = max(len(p.xs) for p in found), max(len(p.ys) for p in found)
    most = max(1, int(_WIDTH / (wide * _CELL + 0.5)))
    lines = math.ceil(len(found) / most)
    columns = math.ceil(len(found) / lines)
    size = (max(columns * (wide * _CELL + 0.4) + 1.4, 3.8), lines * (high * _CELL + 0.5) + 0.9)
    with figures.style():
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False)
        scale = colours([c for p in found for c in p.cells.values()], goal)
        for place, panel in zip(places.flat, found, strict=False):
            _draw_panel(place, panel, scale, metric)
        for place in places.flat[len(found) :]:
            place.set_axis_off()
        for place in places[:, 0]:
            place.set_ylabel(figures.label_of(axes[1]))
        for place in places.flat[max(0, len(found) - columns) : len(found)]:
            place.set_xlabel(figures.label_of(axes[0]))
        add_scale(figure, scale, places, metric)
        _add_legend(figure, found)
    return figure


def colours(configurations: Sequence[Configuration], goal: Goal) -> ScalarMappable:
    """The colour of a score: over the range of those that finished, brighter for better.

    Losses over more than a decade have a logarithmic scale.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    done = [c.score.mean for c in configurations if c.status == FINISHED] or [0.0, 1.0]
    logarithmic = goal == "min" and figures.is_log(done)
    kind: type[Normalize] = LogNorm if logarithmic else Normalize
    low, high = min(done), max(done)
    return ScalarMappable(
        kind(low, high if high > low else low + 1e-9 + abs(low) * 1e-6),
        "viridis" if goal == "max" else "viridis_r",
    )


def add_scale(figure: Figure, scale: ScalarMappable, places: Any, metric: str) -> None:
    """The scale of colours beside the panels."""
    from matplotlib.ticker import PercentFormatter

    shown = PercentFormatter(1, symbol="") if is_share(metric) else None
    label = figures.label_of(metric) + (" (%)" if is_share(metric) else "")
    bar = figure.colorbar(scale, ax=places, label=label, format=shown, pad=0.02, aspect=25)
    bar.outline.set_visible(False)


def _draw_panel(place: Axes, panel: Panel, scale: ScalarMappable, metric: str) -> None:
    """One method."""
    from matplotlib.patches import Rectangle

    for (x, y), found in panel.cells.items():
        column, line = panel.xs.index(_coordinate(x)), panel.ys.index(_coordinate(y))
        corner = (column - 0.5, line - 0.5)
        colour = _colour(found, scale)
        style = (
            _DIVERGED if found.status == DIVERGED else {"facecolor": colour, "edgecolor": "white"}
        )
        place.add_patch(Rectangle(corner, 1, 1, linewidth=0.8, **style))
        place.text(
            column, line, _written(found, metric), color=_ink(colour), fontsize=7.5, **_CENTRED
        )
        if panel.best is not None and found.config == panel.best.config:
            place.add_patch(Rectangle(corner, 1, 1, fill=False, zorder=3, **BEST))
    place.set(xlim=(-0.5, len(panel.xs) - 0.5), ylim=(-0.5, len(panel.ys) - 0.5), aspect="equal")
    place.set_xticks(range(len(panel.xs)), figures.tick_labels(panel.xs))
    place.set_yticks(range(len(panel.ys)), figures.tick_labels(panel.ys))
    place.set_title(panel.name)
    place.tick_params(length=0)
    place.spines[:].set_visible(False)


def _add_legend(figure: Figure, found: Sequence[Panel]) -> None:
    """The legend of the frames and the grey and hatched cells that there are."""
    from matplotlib.patches import Patch

    statuses = {c.status for panel in found for c in panel.cells.values()}
    marks = [Patch(facecolor="none", label="best", **BEST)]
    if statuses - {FINISHED, DIVERGED}:
        marks.append(Patch(color=_GREY, label="( ) stopped early or unfinished"))
    if DIVERGED in statuses:
        marks.append(Patch(label="diverged with a seed", **_DIVERGED))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)


def _colour(found: Configuration, scale: ScalarMappable) -> Colour:
    if found.status != FINISHED:
        return _GREY
    red, green, blue, _ = scale.to_rgba(np.array([found.score.mean]))[0]
    return (float(red), float(green), float(blue))


def _ink(colour: Colour) -> str:
    """Black or white, whichever can be read on a colour."""
    return (
        "white" if sum(w * c for w, c in zip(_LUMINANCE, colour, strict=True)) < 0.45 else "black"
    )


def _written(found: Configuration, metric: str) -> str:
    """The text of a cell."""
    if found.status == DIVERGED:
        return ""
    mean = found.score.mean
    digits = f"{100 * mean:.1f}" if is_share(metric) else f"{mean:#.3g}".rstrip(".")
    text = digits if found.score.seeds else ""
    return text if found.status == FINISHED else f"({text})"


def _coordinate(value: CellValue) -> float | None:
    return None if value is None else number(value)


def _sorted(values: Sequence[CellValue]) -> list[float | None]:
    """Numbers in order, after None if it is there."""
    known = sorted({number(value) for value in values if value is not None})
    return [*([None] if None in values else []), *known]
