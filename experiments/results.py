"""Tables and pictures of repeated runs, made from their folders alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedjax_kd.report import bands, figures
from fedjax_kd.report.estimates import Estimate, rounds_to
from fedjax_kd.report.tidy import Row, Value
from fedjax_kd.runs import read_rows, read_summary

Folders = Mapping[str, Sequence[Path]]
"""The run folders of each method, one a seed."""

_ROUNDS_TO = re.compile(r"rounds to (\d+)%")


def table(folders: Folders, columns: Sequence[str]) -> str:
    """A Markdown table, a row a method: mean +- deviation over seeds.

    Args:
      folders: finished runs.
      columns: from `COLUMNS`, or ``rounds to 80%``: the first evaluation at or above that test
        accuracy, "-" if a seed never reaches it.

    Raises:
      ValueError: if there is no such column.
    """
    heads = ["method", *columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for method, runs in folders.items():
        cells = [method, *(_cell(column, runs) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(folders: Folders, path: Path, *, title: str, metric: str = "test_accuracy") -> Path:
    """A metric by round as PNG: the mean over seeds, and the range between them."""
    lines = {method: [read_rows(f) for f in folders[method]] for method in folders}
    return figures.save(bands.draw(lines, [metric], title=title), path)


def last(folder: Path, metric: str) -> float:
    """A metric at the last evaluation of a run; NaN if the run has no such metric."""
    seen = [row[metric] for row in read_rows(folder) if metric in row]
    return seen[-1] if seen else math.nan


def _percent(metric: str) -> Callable[[Sequence[Path]], str]:
    return lambda runs: _spread(100 * last(folder, metric) for folder in runs)


def _seconds(runs: Sequence[Path]) -> str:
    """Of one run, compilation and evaluation included."""
    return f"{np.mean([sum(read_summary(folder)['seconds'].values()) for folder in runs]):.0f}"


def _forgetting(runs: Sequence[Path]) -> str:
    return _spread(read_summary(folder).get("final_forgetting", math.nan) for folder in runs)


COLUMNS: Mapping[str, Callable[[Sequence[Path]], str]] = {
    "test accuracy": _percent("test_accuracy"),
    "worst tenth of clients": _percent("client_accuracy_worst_decile"),
    "clients' own models": _percent("personal_accuracy_mean"),
    "worst tenth, own models": _percent("personal_accuracy_worst_decile"),
    "forgetting": _forgetting,
    "seconds": _seconds,
}
"""What a table may show of a method: per cent, forgetting F in [0, 1], seconds of one run."""


def _cell(column: str, runs: Sequence[Path]) -> str:
    target = _ROUNDS_TO.fullmatch(column)
    if target is not None:
        return _rounds_to(runs, float(target[1]) / 100)
    if column not in COLUMNS:
        raise ValueError(
            f"There is no column {column!r}. There are: {', '.join(COLUMNS)}, rounds to N%."
        )
    return COLUMNS[column](runs)


def _spread(values: Iterable[float]) -> str:
    seeds = Estimate(tuple(values))
    if math.isnan(seeds.mean):
        return "-"
    deviation = math.nan if seeds.deviation is None else seeds.deviation
    digits = 1 if abs(seeds.mean) > 1 else 2
    return f"{seeds.mean:.{digits}f} ± {deviation:.{digits}f}"


def _rounds_to(runs: Sequence[Path], target: float) -> str:
    """The mean over seeds of the first evaluated round at or above the target."""
    rows: dict[Value, Sequence[Row]] = {str(f): read_rows(f) for f in runs}
    found = rounds_to(rows, "test_accuracy", target).rounds
    return f"{found.mean:.0f}" if found.seeds else "-"
