"""Metrics by name, and whether more of a column is better."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fedjax_kd.metrics.columns import metric_of
from fedjax_kd.metrics.metric import Metric
from fedjax_kd.metrics.of_classes import accuracy, auc, expected_calibration_error, macro_f1, top_k
from fedjax_kd.metrics.of_labels import label_accuracy, label_auc, label_f1, mean_average_precision
from fedjax_kd.metrics.of_regions import dice, iou, mean_iou
from fedjax_kd.metrics.of_values import mae, r2
from fedjax_kd.metrics.ranking import rank_1, rank_5, rank_10, retrieval_map

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_3": top_k(3),
    "top_5": top_k(5),
    "ece": expected_calibration_error,
    "macro_f1": macro_f1,
    "auc": auc,
    "label_accuracy": label_accuracy,
    "label_f1": label_f1,
    "label_auc": label_auc,
    "map": mean_average_precision,
    "mae": mae,
    "r2": r2,
    "dice": dice,
    "iou": iou,
    "mean_iou": mean_iou,
    "rank_1": rank_1,
    "rank_5": rank_5,
    "rank_10": rank_10,
    "retrieval_map": retrieval_map,
}
"""What the command line knows by name; each problem says which of them are its own."""


def rises(column: str, own: Mapping[str, Metric] = MappingProxyType({})) -> bool:
    """Whether more of a column is better: as its metric says, else more of accuracies alone.

    Args:
      column: of an evaluation, or of training.
      own: metrics beside `METRICS`, by name.

    Example:
      >>> rises("judged_dice"), rises("train_loss"), rises("train_accuracy")
      (True, False, True)
    """
    metric = own.get(name := metric_of(column)) or METRICS.get(name)
    return "accuracy" in column if metric is None else metric.larger_is_better
