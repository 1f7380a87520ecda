"""The data of a report: points that can be compared, with their rows and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_kd.errors import InputError
from fedjax_kd.report.estimates import Goal, score_of
from fedjax_kd.report.sweeps import DIVERGED, by_value
from fedjax_kd.report.table_files import CellValue, Record

FURTHER = ("attack_success", "test_accuracy", "test_loss", "train_loss")
"""Columns of which the first is drawn beside what points are compared by."""


class StudyPoints(NamedTuple):
    """Points that can be compared with each other: those of a sweep, or runs on the same data.

    ``points`` and ``rounds`` are the tables of `fedjax_kd.report.sweeps`. ``by`` is the column that
    names what is compared: "method" in sweeps, and in runs "run", everything but the seed.
    ``summaries`` has the run's summary.json, by the number of its point. ``pictures`` are PNG files
    by name. ``documents`` are configurations and versions, by title.
    """

    title: str
    is_sweep: bool
    parameters: tuple[str, ...]
    by: str
    metric: str
    goal: Goal
    last: int
    target: float | None
    points: Sequence[Record]
    rounds: Sequence[Record]
    summaries: Mapping[int, Mapping[str, Any]]
    pictures: Mapping[str, bytes]
    documents: Mapping[str, Any]


def check_metric(rounds: Sequence[Record], metric: str, where: object) -> None:
    """Raises ValueError unless some row has the metric."""
    if not any(row.get(metric) is not None for row in rounds):
        raise InputError(
            f"{where} has no metric {metric!r}: name a column of its metrics.csv or results.csv, "
            "such as test_accuracy, test_loss or train_loss."
        )


def scored(
    points: Sequence[Record], rounds: Sequence[Record], metric: str, last: int = 1
) -> list[dict[str, CellValue]]:
    """Points with their scores by a metric; those whose score is not finite have diverged.

    Args:
      points: with ``point`` and ``status``.
      rounds: with ``point``, ``round`` and the metric.
      metric: a column.
      last: over how many rounds a score is taken.
    """
    of_point, found = by_value(rounds, "point"), []
    for point in points:
        rows = of_point.get(point["point"], [])
        value = score_of(rows, metric, last)
        lost = not math.isfinite(value) and any(row.get(metric) is not None for row in rows)
        status = DIVERGED if lost else point["status"]
        shown = value if math.isfinite(value) and status != DIVERGED else None
        found.append({**point, "status": status, "score": shown})
    return found
