"""Numbers of reports in words: one way of writing scores, parameters, statuses and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedjax_kd.report.estimates import Estimate, Reached, is_share
from fedjax_kd.report.figures import label_of
from fedjax_kd.report.sweeps import DIVERGED, FINISHED, RUNNING, STOPPED, Configuration
from fedjax_kd.report.table_files import CellValue

NOTHING = "-"
STATUS = {
    FINISHED: "finished",
    STOPPED: "stopped early",
    DIVERGED: "diverged",
    RUNNING: "unfinished",
}


def value(cell: CellValue) -> str:
    """A parameter.

    Example:
      >>> value(0.0316227766), value(None), value("mlp"), value(1e-5)
      ('0.03162', '-', 'mlp', '1e-05')
    """
    if cell is None:
        return NOTHING
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def unit_of(metric: str) -> str:
    """The unit after the name of a metric: accuracies are written in percent."""
    return " (%)" if is_share(metric) else ""


def score(amount: float, metric: str, sign: str = "", like: Sequence[float] = ()) -> str:
    """A score; ``sign="+"`` for differences. Losses have three digits, those of the largest of
    ``like``, which stand beside it.

    Example:
      >>> score(0.98765, "test_accuracy"), score(-0.0123, "test_loss", "+"), score(2.0, "test_loss")
      ('98.77', '−0.0123', '2.00')
      >>> score(0.00123, "test_loss", like=[0.512])
      '0.001'
    """
    if not math.isfinite(amount):
        return NOTHING
    if is_share(metric):
        return f"{100 * amount:{sign}.2f}".replace("-", "−")
    largest = max(map(abs, (amount, *like)))
    if largest and not 1e-5 < largest < 1e5:
        return f"{amount:{sign}.2e}".replace("-", "−")
    places = max(0, 2 - math.floor(math.log10(largest))) if largest else 2
    return f"{amount:{sign}.{places}f}".replace("-", "−")


def spread(found: Estimate, metric: str, sign: str = "") -> str:
    """Mean and, of several seeds, deviation.

    Example:
      >>> spread(Estimate((0.8, 0.9)), "test_accuracy"), spread(Estimate((0.8,)), "test_accuracy")
      ('85.00 ± 7.07', '80.00')
    """
    mean, deviation = found.mean, found.deviation
    if deviation is None:
        return score(mean, metric, sign)
    return f"{score(mean, metric, sign, [deviation])} ± {score(deviation, metric, like=[mean])}"


def interval(found: Estimate, metric: str, sign: str = "") -> str:
    """The interval of the mean; "-" of a single seed."""
    ends = found.interval
    return NOTHING if ends is None else " to ".join(score(e, metric, sign, ends) for e in ends)


def target(amount: float, metric: str) -> str:
    """A value of a metric as it is asked for.

    Example:
      >>> target(0.8, "test_accuracy"), target(0.25, "test_loss")
      ('80 % accuracy on the test set', '0.25 loss on the test set')
    """
    shown = f"{100 * amount:g} %" if is_share(metric) else f"{amount:g}"
    return f"{shown} {label_of(metric)}"


def outcome(found: Configuration | None, metric: str) -> str:
    """The score of a configuration, with its status unless it has finished."""
    if found is None or found.status == DIVERGED:
        return STATUS[DIVERGED]
    text = spread(found.score, metric)
    return text if found.status == FINISHED else f"{text} ({STATUS[found.status]})"


def rounds_to_target(found: Reached) -> str:
    """The rounds to a target; "-" unless every seed reaches it.

    Example:
      >>> rounds_to_target(Reached({0: 40, 1: 50})), rounds_to_target(Reached({0: 40, 1: None}))
      ('45.0 ± 7.1', '-')
    """
    mean, deviation = found.rounds.mean, found.rounds.deviation
    if not found.rounds.seeds:
        return NOTHING
    return f"{mean:.0f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
