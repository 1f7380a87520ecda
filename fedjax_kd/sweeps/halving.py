"""Which points of a sweep go on: scores, diverged points, successive halving."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedjax_kd.errors import InputError
from fedjax_kd.metrics import Metric, rises
from fedjax_kd.options import checks_options
from fedjax_kd.report.estimates import Goal, goal_of, score_of
from fedjax_kd.train import Row


class Score(NamedTuple):
    """How good a point is: the mean of a column of its metrics over its last rounds."""

    metric: str
    last: int = 1  # rounds at the end, of which those count that have the metric
    asked: Goal | None = None  # of a metric whose name does not tell it

    @property
    def goal(self) -> Goal:
        """Whether the largest or the smallest is best."""
        return self.asked or goal_of(self.metric)

    def of(self, rows: Sequence[Row]) -> float | None:
        """The score of a point; None if it diverged or has none.

        Example:
          >>> Score("train_loss", last=2).of([{"round": n, "train_loss": 1 / n} for n in (1, 2, 4)])
          0.25
        """
        value = math.nan if diverged(rows) else score_of(rows, self.metric, self.last)
        return value if math.isfinite(value) else None


@checks_options
@dataclass(frozen=True)
class Halving:
    """Successive halving: of the configurations, the best ``1 / eta`` go on after each rung.

    Args:
      eta: >= 2; also the factor between the rounds of two rungs.
      first: rounds before the first rung, >= 1, fewer than all.

    Source: Jamieson, Talwalkar, AISTATS 2016, arXiv:1502.07943.
    """

    eta: int
    first: int


@checks_options
def scoring(
    metric: str, last: int = 1, known: Mapping[str, Metric] = MappingProxyType({})
) -> Score:
    """The score by a metric.

    Args:
      metric: a column.
      last: rounds at the end over which it is averaged, >= 1.
      known: metrics of the user's own, which say whether more of them is better.

    Raises:
      ValueError: if ``last`` is out of its range.
    """
    return Score(metric, last, "max" if rises(metric, known) else "min")


def diverged(rows: Sequence[Row]) -> bool:
    """Whether a point is lost: its test loss is not finite, or no upload of a round was usable.

    Example:
      >>> diverged([{"round": 1, "clients": 0.0, "rejected": 10.0}])
      True
    """
    return any(
        not math.isfinite(row.get("test_loss", 0.0))
        or (row.get("clients", 1.0) == 0 and row.get("rejected", 0.0) > 0)
        for row in rows
    )


def rungs(halving: Halving | None, num_rounds: int, eval_every: int) -> list[int]:
    """The rounds after which points are chosen, and the last one; all but that are evaluated.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> rungs(Halving(eta=3, first=8), num_rounds=100, eval_every=10)
      [10, 30, 80, 100]
    """
    if halving is None:
        return [num_rounds]
    if halving.first >= num_rounds:
        raise InputError(
            f"Halving begins after round {halving.first}, but must begin before the last one, "
            f"{num_rounds}: halve earlier, or train longer."
        )
    asked, found = halving.first, []
    while asked < num_rounds:
        found.append(-(-asked // eval_every) * eval_every)
        asked *= halving.eta
    return [*(r for r in dict.fromkeys(found) if r < num_rounds), num_rounds]


def survivors(
    scores: Mapping[int, Collection[float | None]], goal: Goal, eta: int, *, of: int
) -> list[int]:
    """The configurations that go on: the best ``of / eta``, rounded up, of those that are left.

    Args:
      scores: of each seed of each configuration; one that is None rules its configuration out.
      goal: which of them are best.
      eta: of the halving.
      of: configurations that began together.

    Example:
      >>> survivors({0: [0.5, 0.6], 1: [0.9, None], 2: [0.7, 0.7]}, "max", 3, of=3)
      [2]
    """
    sign = -1 if goal == "max" else 1
    means = {
        config: sign * float(np.mean([v for v in values if v is not None]))
        for config, values in scores.items()
        if values and None not in values
    }
    ranked = sorted(means, key=lambda config: (means[config], config))
    return sorted(ranked[: max(-(-of // eta), 1)])


def selected(
    config_of: Mapping[int, int],
    live: Collection[int],
    rows: Mapping[int, Sequence[Row]],
    how: Score,
    eta: int,
) -> list[int]:
    """The points that go on after a rung: those of the best configurations.

    Args:
      config_of: the configuration of each point, of those that began together.
      live: points that have reached the rung.
      rows: of each point, so far.
      how: their score.
      eta: of the halving.
    """
    began = {config_of[p] for p in live}
    scores: dict[int, list[float | None]] = {config: [] for config in began}
    for point, config in config_of.items():
        if config in began:
            scores[config].append(how.of(rows[point]))
    best = survivors(scores, how.goal, eta, of=len(began))
    return [p for p in sorted(live) if config_of[p] in best]


def status(rows: Sequence[Row], num_rounds: int) -> str:
    """The status of a point: "finished", "diverged", or "stopped" before the end."""
    if diverged(rows):
        return "diverged"
    return "finished" if rows and rows[-1]["round"] == num_rounds else "stopped"
