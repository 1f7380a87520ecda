"""Numbers over seeds: scores of points, means with their uncertainty, rounds to a target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from fedjax_kd.metrics import judged_column, metric_of, rises
from fedjax_kd.options import checks_options
from fedjax_kd.report.table_files import CellValue, Record

Goal = Literal["max", "min"]

_RESAMPLES = 9999


class Estimate(NamedTuple):
    """A quantity over seeds: its mean, and what is known of the mean's error.

    Example:
      >>> three = Estimate((1.0, 2.0, 3.0))
      >>> three.mean, three.deviation, three.interval, three.seeds
      (2.0, 1.0, (1.0, 3.0), 3)
    """

    values: tuple[float, ...]  # one a seed

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """NaN without a seed."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """Of the sample (n - 1); None unless there are two seeds."""
        return float(np.std(self.values, ddof=1)) if self.seeds > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % percentile bootstrap interval of the mean over seeds; None for less than two.

        It never leaves the seeds' range. Of three seeds or fewer it is their range, which covers
        the true mean less often than 95 % of the time.

        Source: Efron, 1979; for comparisons over few seeds, Agarwal et al., 2021, arXiv:2108.13264.
        """
        return _interval(self.values) if self.seeds > 1 else None


class Reached(NamedTuple):
    """The first round at a target, by seed; None where a seed never reaches it."""

    by_seed: Mapping[CellValue, int | None]

    @property
    def seeds(self) -> int:
        """How many seeds reach the target."""
        return sum(n is not None for n in self.by_seed.values())

    @property
    def rounds(self) -> Estimate:
        """The rounds over seeds; without a seed unless all of them reach the target."""
        known = [float(n) for n in self.by_seed.values() if n is not None]
        return Estimate(tuple(known) if len(known) == len(self.by_seed) else ())


def goal_of(metric: str) -> Goal:
    """Whether more or less of a column is better, see `fedjax_kd.metrics.rises`."""
    return "max" if rises(metric) else "min"


def is_share(metric: str) -> bool:
    """Whether a column is written in percent: accuracies are."""
    return "accuracy" in metric or metric == "attack_success"


def headline_metric(rows: Iterable[Record]) -> str:
    """What rows are judged by: results on the test set, or as judged where these are others.

    Example:
      >>> headline_metric([{"test_loss": 2.0, "test_accuracy": 0.1, "judged_accuracy": 0.7}])
      'judged_accuracy'
      >>> headline_metric([{"test_loss": 2.0, "judged_loss": 2.0}])
      'test_loss'
    """
    evaluated = [row for row in rows if row.get("test_loss") is not None]
    known = {name: None for row in evaluated for name, value in row.items() if value is not None}
    column = judged_column(known) or ("test_accuracy" if "test_accuracy" in known else "test_loss")
    measure = metric_of(column)
    tested = [row.get(f"test_{measure}") for row in evaluated]
    judged = [
        row.get(f"judged_{measure}", on_test)
        for row, on_test in zip(evaluated, tested, strict=True)
    ]
    return f"test_{measure}" if judged == tested else f"judged_{measure}"


@checks_options
def score_of(rows: Iterable[Record], metric: str, last: int = 1) -> float:
    """The mean of a metric over a point's last rounds; NaN if it was never seen.

    Args:
      rows: of one point.
      metric: a column.
      last: how many rounds, >= 1, counted back from the last one that has the metric.

    Example:
      >>> rows = [{"round": 9, "test_loss": 3.0}, {"round": 10, "test_loss": 1.0}, {"round": 11}]
      >>> score_of(rows, "test_loss"), score_of(rows, "test_loss", last=2)
      (1.0, 2.0)
    """
    seen = [(number(row["round"]), row[metric]) for row in rows if row.get(metric) is not None]
    end = max((n for n, _ in seen), default=0)
    known = [number(value) for n, value in seen if n > end - last]
    return float(np.mean(known)) if known else math.nan


@lru_cache
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    """A bootstrap interval, the same whenever it is asked for."""
    from scipy.stats import bootstrap

    if min(values) == max(values):
        return values[0], values[0]
    found = bootstrap(
        (np.asarray(values, np.float64),),
        np.mean,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def rounds_to(
    seeds: Mapping[CellValue, Sequence[Record]],
    metric: str,
    target: float,
    goal: Goal | None = None,
) -> Reached:
    """The first round in which each seed was seen at the target or past it.

    Args:
      seeds: the rows of each seed.
      metric: a column; rounds without it are passed over.
      target: value to reach: from below if more is better, from above if less is.
      goal: which of them; by the metric's name if None.

    Example:
      >>> rows = [{"round": 10, "test_accuracy": 0.7}, {"round": 20, "test_accuracy": 0.9}]
      >>> rounds_to({0: rows, 1: rows[:1]}, "test_accuracy", 0.8).by_seed
      {0: 20, 1: None}
    """
    sign = 1 if (goal or goal_of(metric)) == "max" else -1

    def first(rows: Sequence[Record]) -> int | None:
        there = [
            int(number(row["round"]))
            for row in rows
            if sign * number(row.get(metric)) >= sign * target
        ]
        return min(there, default=None)

    return Reached({seed: first(rows) for seed, rows in seeds.items()})


def number(value: CellValue) -> float:
    """A cell as a number; NaN if it is empty or text."""
    return float(value) if isinstance(value, int | float) else math.nan
