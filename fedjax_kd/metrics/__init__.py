"""Metrics by name, their spread over clients, forgetting, fidelity."""

from fedjax_kd.metrics.columns import JUDGED, TRAIT, judged_column, metric_of
from fedjax_kd.metrics.fairness import over_clients
from fedjax_kd.metrics.forgetting import ClassTally, class_accuracy, forgetting, weight_divergence
from fedjax_kd.metrics.metric import (
    Metric,
    Sighting,
    Tally,
    as_metric,
    identities_of,
    mean_of,
    ratio,
    summary,
    sums_of,
    total_of,
)
from fedjax_kd.metrics.of_classes import (
    accuracy,
    auc,
    binned,
    calibration_error,
    expected_calibration_error,
    macro_f1,
    top_k,
)
from fedjax_kd.metrics.of_labels import label_accuracy, label_auc, label_f1, mean_average_precision
from fedjax_kd.metrics.of_regions import dice, iou, mean_iou
from fedjax_kd.metrics.of_values import mae, r2
from fedjax_kd.metrics.ranking import rank_1, rank_5, rank_10, retrieval_map
from fedjax_kd.metrics.registry import METRICS, rises
from fedjax_kd.metrics.traits import traits_by_client, traits_over_clients

__all__ = [
    "JUDGED",
    "METRICS",
    "TRAIT",
    "ClassTally",
    "Metric",
    "Sighting",
    "Tally",
    "accuracy",
    "as_metric",
    "auc",
    "binned",
    "calibration_error",
    "class_accuracy",
    "dice",
    "expected_calibration_error",
    "forgetting",
    "identities_of",
    "iou",
    "judged_column",
    "label_accuracy",
    "label_auc",
    "label_f1",
    "macro_f1",
    "mae",
    "mean_average_precision",
    "mean_iou",
    "mean_of",
    "metric_of",
    "over_clients",
    "r2",
    "rank_1",
    "rank_5",
    "rank_10",
    "ratio",
    "retrieval_map",
    "rises",
    "summary",
    "sums_of",
    "top_k",
    "total_of",
    "traits_by_client",
    "traits_over_clients",
    "weight_divergence",
]
