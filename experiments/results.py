"""Tables and pictures of repeated runs, made from their folders alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.report import bands, figures
from fedjax_kd.report.axes import Along, places_of
from fedjax_kd.report.estimates import Estimate, rounds_to
from fedjax_kd.report.table_files import CellValue, Record
from fedjax_kd.runs.folder import read_rows, read_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Folders = Mapping[str, Sequence[Path]]
"""The run folders of each method, one a seed."""

Floats = NDArray[np.float64]
Number = Callable[[Path], float]
"""Of a finished run, from its folder."""

CLIENTS_MODELS = "accuracy of the clients' models"
RANK_1 = "rank-1 of the clients' models"
"""Metrics of runs: of the model that a client uses, after steps of its own if the run has such
(``--finetune``), else its own or the global one."""

_OF_CLIENTS = {"accuracy": CLIENTS_MODELS, "rank_1": RANK_1}

_COSTS: Mapping[str, Along] = {
    "simulated seconds": "simulated_seconds",
    "client updates": "client_updates",
    "MB": "megabytes",
    "MB up": "megabytes_up",
}
_ROUNDS_TO = re.compile(r"rounds to (\d+)%")
_COST_TO = re.compile(rf"({'|'.join(_COSTS)}) to (\d+)%")


def table(folders: Folders, columns: Sequence[str]) -> str:
    """A Markdown table, a row a method: mean +- deviation over seeds.

    Args:
      folders: finished runs.
      columns: from `COLUMNS`, or ``rounds to 80%``: the first evaluation at or above that test
        accuracy, "-" if a seed never reaches it; or what a run had cost by then, as
        ``simulated seconds to 80%``, ``client updates``, ``MB`` (both ways) or ``MB up``.

    Raises:
      ValueError: if there is no such column.
    """
    heads = ["method", *columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for method, runs in folders.items():
        cells = [method, *(_cell(column, runs) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def across(cells: Mapping[str, Folders], column: str) -> str:
    """One column of several federations as a Markdown table, a row a method.

    Args:
      cells: finished runs, by name of the federation; all have the same methods.
      column: see `table`; the last one is that of the seconds, over all federations.
    """
    methods = next(iter(cells.values()))
    heads = ["method", *_told_apart(list(cells)), "seconds"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for method in methods:
        found = [_cell(column, folders[method]) for folders in cells.values()]
        everywhere = [run for folders in cells.values() for run in folders[method]]
        lines.append(f"| {' | '.join([method, *found, _cell('seconds', everywhere)])} |")
    return "\n".join(lines)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names without the parts, between dashes, that all of them have."""
    parts = [name.split("-") for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    return ["-".join(part for part in own if part not in shared) for own in parts]


def picture(
    folders: Folders,
    path: Path,
    *,
    title: str,
    metric: str = "test_accuracy",
    along: Along = "round",
) -> Path:
    """A metric along an axis as PNG: the mean over seeds, and the range between them."""
    lines = {method: [_rows(folder) for folder in folders[method]] for method in folders}
    return figures.save_figure(bands.draw_curves(lines, [metric], along=along, title=title), path)


def picture_across(
    cells: Mapping[str, Folders], path: Path, columns: Sequence[str], *, title: str
) -> Path:
    """What runs of several federations ended with as PNG: mean and range over seeds.

    Args:
      cells: see `across`.
      path: of the picture.
      columns: from `NUMBERS`, a panel each.
      title: of the whole.
    """
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure((6.4 * len(columns), 4.2), dpi=150, layout="constrained")
        places = figure.subplots(1, len(columns), squeeze=False)[0]
        for place, column in zip(places, columns, strict=True):
            _draw_across(place, cells, column)
        figures.add_names(figure)
        figure.suptitle(title, fontsize=11)
    return figures.save_figure(figure, path)


def picture_of_many(folders: Folders, path: Path, columns: Sequence[str], *, title: str) -> Path:
    """What more methods than curves can be told apart ended with as PNG: mean and range over seeds.

    Args:
      folders: finished runs of each method, a line each.
      path: of the picture.
      columns: from `NUMBERS`, a panel each.
      title: of the whole.
    """
    from matplotlib.figure import Figure

    with figures.style():
        size = (4.2 * len(columns) + 1, 0.22 * len(folders) + 1)
        figure = Figure(size, dpi=150, layout="constrained")
        places = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
        for place, column in zip(places, columns, strict=True):
            mean, ends = _means(NUMBERS[column], folders.values())
            where = np.arange(len(folders))
            place.errorbar(mean, where, xerr=ends, fmt="o", markersize=4, color="C0")
            place.set_xlabel(column)
            place.grid(axis="both", alpha=0.3)
        places[0].set_yticks(where, list(folders))
        places[0].invert_yaxis()
        figure.suptitle(title, fontsize=11)
    return figures.save_figure(figure, path)


def _means(number: Number, methods: Iterable[Sequence[Path]]) -> tuple[Floats, Floats]:
    """Over seeds: means ``[N]``, and how far the least and the largest are from them ``[2, N]``."""
    values = np.array([[number(run) for run in runs] for runs in methods])
    mean = values.mean(axis=1)
    return mean, np.abs(np.stack([values.min(axis=1), values.max(axis=1)]) - mean)


def _draw_across(place: Axes, cells: Mapping[str, Folders], column: str) -> None:
    """Methods stand beside each other in every federation."""
    methods = list(next(iter(cells.values())))
    for order, method in enumerate(methods):
        mean, ends = _means(NUMBERS[column], [folders[method] for folders in cells.values()])
        beside = (order - (len(methods) - 1) / 2) * 0.7 / len(methods)
        color = figures.line_style(order)["color"]
        where = np.arange(len(cells)) + beside
        place.errorbar(where, mean, ends, fmt="o", markersize=4, color=color, label=method)
    place.set_xticks(range(len(cells)), _told_apart(list(cells)), rotation=30, ha="right")
    place.set_ylabel(column)
    place.grid(axis="y", alpha=0.3)


def last(folder: Path, metric: str) -> float:
    """A metric at the last evaluation of a run; NaN if the run has no such metric."""
    seen = [row[metric] for row in _rows(folder) if metric in row]
    return seen[-1] if seen else math.nan


def _rows(folder: Path) -> list[dict[str, float]]:
    """The rows of a run, with what clients' models reach on their own test rows, where measured."""
    rows = [dict(row) for row in read_rows(folder)]
    for row in rows:
        for metric, shown in _OF_CLIENTS.items():
            kinds = ("finetuned", "personal", "client")
            kind = next((k for k in kinds if f"{k}_{metric}_mean" in row), "client")
            for name, ending in (("mean", ""), ("worst_decile", ", worst tenth")):
                if f"{kind}_{metric}_{name}" in row:
                    row[f"{shown}{ending}"] = row[f"{kind}_{metric}_{name}"]
    return rows


def _percent(metric: str) -> Number:
    return lambda folder: 100 * last(folder, metric)


def _forgetting(folder: Path) -> float:
    found: float = read_summary(folder).get("final_forgetting", math.nan)
    return found


def _traffic(folder: Path) -> float:
    """What a client receives and sends in a round, on average."""
    rows = [row for row in read_rows(folder) if row.get("clients")]
    sent = sum(row["bytes_down"] + row["bytes_up"] for row in rows)
    return float(sent / max(sum(row["clients"] for row in rows), 1) / 1000)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Writes a data set that a study has made, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return unfinished.replace(path)


NUMBERS: Mapping[str, Number] = {
    "test accuracy": _percent("test_accuracy"),
    **{f"group {number}": _percent(f"group_{number}_accuracy") for number in range(3)},
    "worst tenth of clients": _percent("client_accuracy_worst_decile"),
    **{f"{tier} classes": _percent(f"{tier}_accuracy") for tier in ("head", "middle", "tail")},
    "clients' models": _percent(CLIENTS_MODELS),
    "worst tenth of clients' models": _percent(f"{CLIENTS_MODELS}, worst tenth"),
    "clients' rank-1": _percent(RANK_1),
    "rank-1": _percent("test_rank_1"),
    "mAP": _percent("test_retrieval_map"),
    "attack success": _percent("attack_success"),
    "forgetting": _forgetting,
    "kB a client and round": _traffic,
}
"""What a run, or a group of its clients, ends with: per cent, F in [0, 1], and kB both ways."""

COLUMNS = (*NUMBERS, "seconds")
"""What a table may show of a method; seconds are those of the median run, all included."""


def _cell(column: str, runs: Sequence[Path]) -> str:
    target = _ROUNDS_TO.fullmatch(column)
    if target is not None:
        return _rounds_to(runs, float(target[1]) / 100)
    target = _COST_TO.fullmatch(column)
    if target is not None:
        return _cost_to(runs, _COSTS[target[1]], float(target[2]) / 100)
    if column not in COLUMNS:
        raise ValueError(
            f"There is no column {column!r}. There are: {', '.join(COLUMNS)}, rounds to N%."
        )
    if column == "seconds":
        return f"{np.median([sum(read_summary(run)['seconds'].values()) for run in runs]):.0f}"
    return _spread((NUMBERS[column](run) for run in runs), 3 if column == "forgetting" else 1)


def _spread(values: Iterable[float], digits: int) -> str:
    """Mean and deviation over seeds."""
    seeds = Estimate(tuple(values))
    if math.isnan(seeds.mean):
        return "-"
    spread = "" if seeds.deviation is None else f" ± {seeds.deviation:.{digits}f}"
    return f"{seeds.mean:.{digits}f}{spread}"


def _cost_to(runs: Sequence[Path], along: Along, target: float) -> str:
    """What runs had cost, over seeds, at the first evaluation at or above the target."""
    found = []
    for run in runs:
        rows = read_rows(run)
        places = zip(rows, places_of(rows, along), strict=True)
        reached = (at for row, at in places if row.get("test_accuracy", 0.0) >= target)
        found.append(next(reached, math.nan))
    return _spread(found, 1 if max(found) < 1000 else 0)


def _rounds_to(runs: Sequence[Path], target: float) -> str:
    """The mean over seeds of the first evaluated round at or above the target."""
    rows: dict[CellValue, Sequence[Record]] = {str(f): read_rows(f) for f in runs}
    found = rounds_to(rows, "test_accuracy", target).rounds
    return f"{found.mean:.0f}" if found.seeds else "-"
