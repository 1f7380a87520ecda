"""Measures of predictions: sums that add up, their spread over clients, forgetting, fidelity."""

from fedjax_kd.metrics.fairness import client_accuracy, client_loss, headline, over_clients
from fedjax_kd.metrics.forgetting import ClassTally, class_accuracy, forgetting, weight_divergence
from fedjax_kd.metrics.tally import (
    Tally,
    binned,
    calibration_error,
    empty,
    summary,
    tally,
    total_of,
)

__all__ = [
    "ClassTally",
    "Tally",
    "binned",
    "calibration_error",
    "class_accuracy",
    "client_accuracy",
    "client_loss",
    "empty",
    "forgetting",
    "headline",
    "over_clients",
    "summary",
    "tally",
    "total_of",
    "weight_divergence",
]
