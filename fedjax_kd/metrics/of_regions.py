"""Metrics of segmentation: a label a pixel, of which 0 is the background; -1 is no label.

Pixels of all images are counted together, class by class; then comes the mean over the classes that
occur among labels or predictions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.metrics.metric import Metric, mean_known, ratio
from fedjax_kd.metrics.of_classes import confusion, f1_of


def _overlap(sums: Any) -> NDArray[np.float64]:
    """The intersection over the union of each class; NaN where a class never occurs."""
    right, predicted, labelled = np.moveaxis(np.asarray(sums, np.float64), -2, 0)
    return ratio(right, predicted + labelled - right)


dice = Metric(
    confusion,
    lambda sums: mean_known(f1_of(sums)[..., 1:]),
    about="Dice's coefficient, the mean over the classes but the background.",
)

iou = Metric(
    confusion,
    lambda sums: mean_known(_overlap(sums)[..., 1:]),
    about="The intersection over the union, the mean over the classes but the background.",
)

mean_iou = Metric(
    confusion,
    lambda sums: mean_known(_overlap(sums)),
    about="The intersection over the union, the mean over all classes, the background included.",
)
