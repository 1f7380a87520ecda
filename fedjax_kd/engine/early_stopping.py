"""When a training ends before its last round, found from the rows of its evaluations alone.

A resumed training therefore counts on where it was, and ends in the same round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedjax_kd.errors import InputError
from fedjax_kd.metrics import judged_column, rises
from fedjax_kd.options import checks_options

STOPPED_EARLY = "stopped early"  # the status of a run that ended so


class Stop(NamedTuple):
    """The end of a training before its last round, and why."""

    reason: str


@checks_options
@dataclass(frozen=True)
class Patience:
    """So many evaluations in a row may bring nothing better; then a training stops.

    Args:
      evaluations: without a better value of the column that the method is judged by, >= 1.
      min_delta: by which a value must be better than the best one before it to count, >= 0.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> rows = [{"round": n, "judged_accuracy": v} for n, v in enumerate([0.1, 0.5, 0.5, 0.4])]
      >>> Patience(2).after(rows).reason
      'no judged_accuracy better than 0.5 of round 1 in 2 evaluations'
      >>> Patience(3).after(rows) is None
      True
    """

    evaluations: int
    min_delta: float = 0.0

    def after(self, rows: Sequence[Mapping[str, float]]) -> Stop | None:
        """Whether a training with these rows stops; the first one is that of the initial model."""
        best, waited, number, shown = -math.inf, 0, 0, math.nan
        for row, column, value in _judged(rows):
            waited += 1
            # NaN is never better, so that a training that diverged stops, too.
            if value > best + self.min_delta:
                best, waited, number, shown = value, 0, int(row["round"]), row[column]
            if waited >= self.evaluations:
                by = f" by more than {self.min_delta:g}" if self.min_delta else ""
                times = f"{waited} evaluation{'s' if waited > 1 else ''}"
                return Stop(f"no {column} better than {shown:.4g} of round {number}{by} in {times}")
        return None


def patience_of(evaluations: int | None, min_delta: float = 0.0) -> Patience | None:
    """The patience of a run; None without.

    Raises:
      ValueError: if a number is out of its range, or ``min_delta`` is given alone.
    """
    if evaluations is None:
        if min_delta:
            raise InputError(f"min_delta is {min_delta}, but there is no patience: give one, too.")
        return None
    return Patience(evaluations, min_delta)


def best_round(rows: Sequence[Mapping[str, float]]) -> int | None:
    """The first round with the best value of what a method is judged by; None before there is one.

    Example:
      >>> best_round([{"round": 0, "judged_loss": 2.0}, {"round": 2, "judged_loss": 1.0}])
      2
    """
    best, found = -math.inf, None
    for row, _, value in _judged(rows):
        if value > best:
            best, found = value, int(row["round"])
    return found


def _judged(
    rows: Sequence[Mapping[str, float]],
) -> list[tuple[Mapping[str, float], str, float]]:
    """The rows that were evaluated, the column they are judged by, and values of which more is
    better.
    """
    columns = [judged_column(row) for row in rows]
    return [
        (row, column, row[column] if rises(column) else -row[column])
        for row, column in zip(rows, columns, strict=True)
        if column is not None
    ]
