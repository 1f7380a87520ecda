"""The records of methods whose losses know the client's labels."""

from __future__ import annotations

from functools import partial

from digits import network, softmax_regression
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Limit, Record

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
BODY, HEAD = 4 * (FEATURES * 2 + 2), 4 * (2 * CLASSES + CLASSES)  # of two hidden units
LINEAR = Digits(softmax_regression)

LABELS: dict[str, Record] = {
    "fedlc": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"tau": 0.0}), digits=LINEAR
    ),
    "fedrs": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"alpha": 1.0}), digits=LINEAR
    ),
    "fedrod": Record(
        task=partial(logistic, hidden=2),
        bytes=(BODY + HEAD, BODY + HEAD, HEAD),
        limit=Limit({"gamma": 0.0}, gap=1e-7),  # XLA fuses otherwise beside another head
        digits=Digits(network, {"client_lr": 0.1}),
    ),
    "fedgkd": Record(
        task=logistic,
        bytes=(2 * MODEL, MODEL, 0),
        limit=Limit({"gamma": 0.0}, gap=1e-7),  # XLA fuses otherwise beside the teacher
        digits=LINEAR,
        options={"history": 2},
    ),
    "fedcurv": Record(
        task=logistic,
        bytes=(3 * MODEL + 4, 3 * MODEL, 2 * MODEL + 4),
        limit=Limit({"lamb": 0.0}, gap=1e-7),  # XLA fuses otherwise beside the penalty
        digits=LINEAR,
    ),
}
