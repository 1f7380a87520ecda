"""Whether all systems did the same work, seen from their learning curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.rivals.measure import Measurement, Report

Curve = Sequence[tuple[int, float, float]]
"""(round, test loss, test accuracy) of every evaluation."""

LABEL = "NOT THE SAME WORK"

_FIRST_LOSS = 1e-4  # the same weights and the same test set: float32 arithmetic only
_EXACT_LOSS = 1e-3  # the same batches too: its accumulation over the rounds
_LOSS, _ACCURACY = 0.1, 0.05  # mean over the curve where batches and dropout are random


def judged(
    found: Mapping[str, Measurement], *, parameters: int, exact: bool
) -> dict[str, Measurement]:
    """The measurements, with a fault noted where a system's work differs from the others'.

    A curve is held against the median of all curves, point by point.

    Args:
      found: by system.
      parameters: of the workload's network.
      exact: whether all curves must coincide.
    """
    curves = [report["curve"] for m in found.values() for report in m.reports]
    if not curves:
        return dict(found)
    rounds = statistics.mode(_rounds(curve) for curve in curves)
    usual = [
        (point[0][0], *(statistics.median(p[i] for p in point) for i in (1, 2)))
        for point in zip(*(c for c in curves if _rounds(c) == rounds), strict=True)
    ]

    def fault(measurement: Measurement) -> str:
        said = (_fault(report, usual, parameters, exact) for report in measurement.reports)
        return next(filter(None, said), "")

    return {system: m._replace(fault=fault(m)) for system, m in found.items()}


def _rounds(curve: Curve) -> tuple[int, ...]:
    """After which rounds a curve has a point."""
    return tuple(point[0] for point in curve)


def _fault(report: Report, usual: Curve, parameters: int, exact: bool) -> str:
    """How one run differs from the usual one, or nothing."""
    curve = report["curve"]
    if report["parameters"] != parameters:
        return f"{report['parameters']} parameters, not {parameters}"
    if _rounds(curve) != _rounds(usual):
        return "evaluated after other rounds"
    losses = [abs(a[1] - b[1]) for a, b in zip(curve, usual, strict=True)]
    if not losses[0] <= _FIRST_LOSS * max(1.0, usual[0][1]):
        return f"starts at a loss of {curve[0][1]:.5f}, the others at {usual[0][1]:.5f}"
    if exact:
        return "" if max(losses) <= _EXACT_LOSS else f"its loss is off by {max(losses):.4f}"
    accuracies = [a[2] - b[2] for a, b in zip(curve, usual, strict=True)]
    loss, accuracy = statistics.fmean(losses[1:]), statistics.fmean(accuracies[1:])
    if not (loss <= _LOSS and abs(accuracy) <= _ACCURACY):
        return f"on average its loss is off by {loss:.3f} and its accuracy by {accuracy:+.3f}"
    return ""
