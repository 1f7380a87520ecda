"""Tables of the study of adaptive server optimisers: pure functions of what sweeps found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedjax_kd.report import estimates, sweeps
from fedjax_kd.report.estimates import Estimate, Reached, number
from fedjax_kd.report.sweeps import AXES, DIVERGED, Configuration
from fedjax_kd.report.table_files import CellValue, Record

TUNED = (*AXES, "tau")


class Found(NamedTuple):
    """What a sweep found: a row a point, and a row a point and round."""

    points: Sequence[Record]
    results: Sequence[Record]


class Measure(NamedTuple):
    """What a model is judged by: the mean of a metric over the last rounds.

    ``factor`` is what tables multiply it by: 100 for accuracies, 1000 for squared errors.
    """

    metric: str
    last: int
    factor: float = 100.0

    @property
    def goal(self) -> estimates.Goal:
        """Whether more or less of it is better."""
        return estimates.goal_of(self.metric)


def rescored(found: Found, measure: Measure) -> list[Record]:
    """The points, scored by another metric than the one of their sweep.

    Example:
      >>> points = [{"point": 0, "status": "finished", "score": 0.7}]
      >>> results = [{"point": 0, "round": 10, "test_accuracy": 0.5}]
      >>> rescored(Found(points, results), Measure("test_accuracy", 1))[0]["score"]
      0.5
    """
    rows = sweeps.by_value(found.results, "point")

    def score(point: Record) -> float | None:
        if point["status"] == DIVERGED:
            return None
        value = estimates.score_of(rows.get(point["point"], []), measure.metric, measure.last)
        return None if math.isnan(value) else value

    return [{**point, "score": score(point)} for point in found.points]


def reached(found: Found, config: int, measure: Measure, target: float) -> Reached:
    """The first round at the target of each seed of a configuration."""
    rows = [row for row in found.results if row["config"] == config]
    return estimates.rounds_to(sweeps.by_value(rows, "seed"), measure.metric, target, measure.goal)


def final_table(found: Found, measure: Measure, target: float) -> str:
    """A Markdown table, a row a method: tuned values, final score, difference to the first method.

    Args:
      found: the tuned configuration of each method, with several seeds.
      measure: of the final score.
      target: of the column "rounds to", in units of the metric.
    """
    points = rescored(found, measure)
    name, goal = measure.metric.replace("_", " "), f"{measure.factor * target:g}"
    times = "" if measure.factor == 100 else f" × {measure.factor:g}"
    unit = " (%)" if measure.factor == 100 else times
    known = sweeps.configurations(points)
    apart_from = f"less that of {known[0].point['method']}, paired"
    titles = ("method", "client lr", "server lr", "tau", f"{name}{unit}", apart_from)
    lines = _head(*titles, f"rounds to {goal}")
    for one in known:
        method = str(one.point["method"])
        apart = sweeps.difference(points, one.config, known[0].config)
        score = _estimate(one.score, measure.factor) if one.status != DIVERGED else "diverged"
        tuned = [_value(one.point.get(parameter)) for parameter in TUNED]
        lines.append(
            _line(
                method,
                *tuned,
                score,
                _apart(apart, measure.factor) if one is not known[0] else "",
                _rounds(reached(found, one.config, measure, target)),
            )
        )
    return "\n".join(lines)


def region_table(found: Found, measure: Measure) -> str:
    """A Markdown table, a row a method: how many (client lr, server lr) are nearly the best.

    Args:
      found: the sweep that tuned all methods; over tau the best is taken.
      measure: of the scores, with its usual tolerance.
    """
    tolerance = sweeps.tolerance_of(measure.metric)
    near = f"{100 * tolerance.amount:g} {'%' if tolerance.relative else 'points'}"
    lines = _head(
        "method", "best", f"cells within {near}", "share", "client lr", "server lr", "diverged"
    )
    for method, points in sweeps.by_value(rescored(found, measure), "method").items():
        top = sweeps.best(points, measure.goal)
        region = sweeps.good_region(points, AXES, measure.goal, tolerance)
        spans = [_span(region.spans.get(axis)) for axis in AXES]
        cells = sweeps.plane(points, AXES, measure.goal).values()
        lost = sum(cell.status == DIVERGED for cell in cells)
        score = "-" if top is None else _scaled(top.score.mean, measure.factor)
        share = f"{region.share:.0%}"
        lines.append(
            _line(str(method), score, f"{region.good} of {region.tried}", share, *spans, str(lost))
        )
    return "\n".join(lines)


def tau_table(found: Found, measure: Measure) -> str:
    """A Markdown table, a row an adaptive method: the best score at each tau.

    Args:
      found: the sweep that tuned all methods.
      measure: of the scores.
    """
    points = [row for row in rescored(found, measure) if row.get("tau") is not None]
    taus = sorted({number(row["tau"]) for row in points})
    lines = _head("method", *(f"tau {tau:g}" for tau in taus))
    for method, rows in sweeps.by_value(points, "method").items():
        best = sweeps.best_by(rows, "tau", measure.goal)
        cells = [_best_at(best.get(tau), measure.factor) for tau in taus]
        lines.append(_line(str(method), *cells))
    return "\n".join(lines)


def _best_at(one: Configuration | None, factor: float) -> str:
    """A score, and the rates that gave it."""
    if one is None:
        return "diverged"
    rates = ", ".join(_value(one.point.get(axis)) for axis in AXES)
    return f"{_scaled(one.score.mean, factor)} ({rates})"


def _head(*titles: str) -> list[str]:
    return [_line(*titles), "|---" * len(titles) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _value(value: CellValue) -> str:
    """A rate as people write half decades.

    Example:
      >>> _value(0.0316227766017), _value(None)
      ('0.032', '')
    """
    return "" if value is None else f"{number(value):.2g}"


def _scaled(value: float, factor: float) -> str:
    return f"{factor * value:.1f}" if factor == 100 else f"{factor * value:.3g}"


def _estimate(estimate: Estimate, factor: float) -> str:
    """Mean and deviation over seeds; "-" where no seed has a score."""
    if not estimate.seeds:
        return "-"
    mean = _scaled(estimate.mean, factor)
    spread = estimate.deviation
    return mean if spread is None else f"{mean} ± {_scaled(spread, factor)}"


def _apart(apart: Estimate, factor: float) -> str:
    """A mean difference, and the interval of the mean over seeds."""
    if not apart.seeds:
        return "-"
    digits = "+.1f" if factor == 100 else "+.3g"
    mean = format(factor * apart.mean, digits)
    if apart.interval is None:
        return mean
    low, high = (format(factor * end, digits) for end in apart.interval)
    return f"{mean} ({low} to {high})"


def _rounds(reached: Reached) -> str:
    """The mean over seeds; "-" if one never gets there, with how many did."""
    if reached.rounds.seeds:
        return f"{reached.rounds.mean:.0f}"
    return f"- ({reached.seeds} of {len(reached.by_seed)})"


def _span(span: tuple[float, float] | None) -> str:
    if span is None:
        return "-"
    low, high = map(_value, span)
    return low if low == high else f"{low} to {high}"
