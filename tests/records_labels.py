"""The records of methods whose losses know the client's labels."""

from __future__ import annotations

from digits import softmax_regression
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Limit, Record

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
LINEAR = Digits(softmax_regression)

LABELS: dict[str, Record] = {
    "fedlc": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"tau": 0.0}), digits=LINEAR
    ),
    "fedrs": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"alpha": 1.0}), digits=LINEAR
    ),
}
