"""Statistics of a sweep: best configurations, paired differences, planes, good regions.

Pure functions of the table of points. It has a row for each point, a configuration trained with one
seed: ``config``, ``seed``, the parameters, ``status``, ``finished_rounds`` and ``score``. Several
runs are such a table too: `fedjax_kd.report.load` makes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fedjax_kd.report.estimates import Estimate, Goal, goal_of, number
from fedjax_kd.report.table_files import CellValue, Record

FINISHED, STOPPED, DIVERGED, RUNNING = "finished", "stopped", "diverged", "running"
AXES = ("client_lr", "server_lr")

Cell = tuple[CellValue, ...]
"""A value of each axis; None where a method lacks the parameter."""


class Configuration(NamedTuple):
    """One setting of the parameters, over its seeds.

    ``status`` is "diverged" if a seed diverged, "finished" if all finished, "stopped" if early
    stopping dropped one, else "running". ``point`` is the row of its first seed, which has the
    parameters; ``progress`` is the sum of finished rounds.
    """

    config: int
    point: Record
    score: Estimate
    status: str
    progress: int


class Region(NamedTuple):
    """How many of the tried cells of a plane are nearly as good as its best one.

    ``spans`` are the smallest and the largest good value of each axis.
    """

    good: int
    tried: int
    spans: Mapping[str, tuple[float, float]]

    @property
    def share(self) -> float:
        """Of the tried cells, in [0, 1]."""
        return self.good / self.tried


class Tolerance(NamedTuple):
    """How much worse than the best is still good: an amount, or a share of the best score."""

    amount: float
    relative: bool = False


WITHIN_TWO_POINTS, WITHIN_A_TENTH = Tolerance(0.02), Tolerance(0.1, relative=True)


def tolerance_of(metric: str) -> Tolerance:
    """What is called good by default: within 0.02 of the best accuracy, or a tenth of a loss."""
    return WITHIN_TWO_POINTS if goal_of(metric) == "max" else WITHIN_A_TENTH


def by_value(points: Iterable[Record], by: str) -> dict[CellValue, list[Record]]:
    """Points by the value of a column, in order of appearance; None where they have none."""
    found: dict[CellValue, list[Record]] = defaultdict(list)
    for point in points:
        found[point.get(by)].append(point)
    return dict(found)


def configurations(points: Iterable[Record]) -> list[Configuration]:
    """The configurations of a table of points, in order of appearance.

    Example:
      >>> table = [{"config": 4, "seed": s, "status": "finished", "score": 0.5} for s in range(3)]
      >>> (found,) = configurations(table)
      >>> found.config, found.status, found.score.mean, found.score.seeds
      (4, 'finished', 0.5, 3)
    """
    return [_configuration(rows) for rows in by_value(points, "config").values()]


def _configuration(rows: Sequence[Record]) -> Configuration:
    scores = [number(row["score"]) for row in rows if row.get("score") is not None]
    whole = len(scores) == len(rows)
    kinds = {row["status"] for row in rows}
    if DIVERGED in kinds:
        status = DIVERGED
    elif kinds == {FINISHED} and whole:
        status = FINISHED
    else:
        status = STOPPED if STOPPED in kinds else RUNNING
    progress = sum(int(number(row.get("finished_rounds") or 0)) for row in rows)
    return Configuration(
        int(number(rows[0]["config"])), rows[0], Estimate(tuple(scores)), status, progress
    )


def best(points: Iterable[Record], goal: Goal = "max") -> Configuration | None:
    """The configuration with the best mean score over its seeds.

    One that diverged with any seed is never the best. One that was stopped early or still runs with
    any seed is so only if none has finished with all: then the one that got furthest, and among
    these the best. The first of equals; None if nothing is left.

    Args:
      points: of a sweep.
      goal: whether higher or lower scores are better.

    Example:
      >>> table = [
      ...     {"config": 0, "seed": 0, "status": "finished", "score": 0.8},
      ...     {"config": 1, "seed": 0, "status": "stopped", "score": 0.9},
      ... ]
      >>> best(table).config
      0
    """
    known = [c for c in configurations(points) if c.score.seeds and c.status != DIVERGED]
    done = [c for c in known if c.status == FINISHED]
    sign = 1 if goal == "max" else -1
    return max(
        done or known,
        key=lambda c: (0 if done else c.progress, sign * c.score.mean),
        default=None,
    )


def best_by(
    points: Iterable[Record], by: str = "method", goal: Goal = "max"
) -> dict[CellValue, Configuration | None]:
    """The best configuration for each value of a parameter; None where none is left.

    Args:
      points: of a sweep.
      by: a parameter. ``"tau"``, with the points of one method, gives the influence of tau.
      goal: whether higher or lower scores are better.
    """
    return {value: best(rows, goal) for value, rows in by_value(points, by).items()}


def difference(points: Iterable[Record], config: int, baseline: int) -> Estimate:
    """The score of a configuration less that of another, paired by the seeds that both have.

    Points of one seed share partition, initial model, cohorts and batch order, so that what they
    have in common cancels. Only points that finished count.

    Args:
      points: of a sweep.
      config: number of the one configuration.
      baseline: number of the other.

    Example:
      >>> table = [
      ...     {"config": c, "seed": s, "status": "finished", "score": 0.5 * c + 0.1 * s}
      ...     for c in (0, 1)
      ...     for s in (0, 1)
      ... ]
      >>> difference(table, 1, 0).values
      (0.5, 0.5)
    """
    scores: dict[int, dict[CellValue, float]] = {config: {}, baseline: {}}
    for row in points:
        of = int(number(row["config"]))
        if of in scores and row["status"] == FINISHED and row.get("score") is not None:
            scores[of][row["seed"]] = number(row["score"])
    one, other = scores[config], scores[baseline]
    return Estimate(tuple(one[seed] - other[seed] for seed in one if seed in other))


def plane(
    points: Iterable[Record], axes: Sequence[str] = AXES, goal: Goal = "max"
) -> dict[Cell, Configuration]:
    """The best configuration of every cell of a plane, over all parameters that are no axis.

    Where none is left, all of the cell's configurations diverged: it has the first of them.

    Args:
      points: of one method.
      axes: parameters; one makes a line of cells, several a plane.
      goal: whether higher or lower scores are better.
    """
    cells: dict[Cell, list[Record]] = defaultdict(list)
    for point in points:
        cells[tuple(point.get(axis) for axis in axes)].append(point)
    return {cell: best(rows, goal) or configurations(rows)[0] for cell, rows in cells.items()}


def good_region(
    points: Iterable[Record],
    axes: Sequence[str] = AXES,
    goal: Goal = "max",
    tolerance: Tolerance = WITHIN_TWO_POINTS,
) -> Region:
    """How wide the region of good hyper-parameters of one method is.

    A cell is good if its mean score is within a tolerance of the best one's. Cells that diverged,
    or were stopped early while others finished, were tried and are not good: after early stopping
    the region is a lower bound.

    Args:
      points: of one method.
      axes: parameters that span the plane; over all others the best value is taken.
      goal: whether higher or lower scores are better.
      tolerance: see `tolerance_of`.

    Example:
      >>> rates = [0.01, 0.1, 1.0]
      >>> table = [
      ...     {"config": i, "seed": 0, "client_lr": lr, "status": "finished", "score": 0.9 - i / 90}
      ...     for i, lr in enumerate(rates)
      ... ]
      >>> good_region(table, axes=["client_lr"])
      Region(good=2, tried=3, spans={'client_lr': (0.01, 0.1)})
    """
    cells = plane(points, axes, goal)
    usable = {cell: c for cell, c in cells.items() if c.score.seeds and c.status != DIVERGED}
    done = {cell: c for cell, c in usable.items() if c.status == FINISHED}
    scores = {cell: c.score.mean for cell, c in (done or usable).items()}
    if not scores:
        return Region(0, len(cells), {})
    top = max(scores.values()) if goal == "max" else min(scores.values())
    slack = tolerance.amount * (abs(top) if tolerance.relative else 1)
    # What differs by the tolerance itself is good, however it is rounded.
    slack += 1e-9 * abs(top)
    good = [cell for cell, value in scores.items() if abs(value - top) <= slack]
    columns = {axis: [c[i] for c in good if c[i] is not None] for i, axis in enumerate(axes)}
    spans = {a: (min(map(number, v)), max(map(number, v))) for a, v in columns.items() if v}
    return Region(len(good), len(cells), spans)
