"""The records of methods whose server weighs, normalises or extrapolates what clients send."""

from __future__ import annotations

from functools import partial

from digits import network, softmax_regression
from federations import CLASSES, FEATURES, SIZES, logistic
from methods import Digits, Limit, Record, uniformly

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
HIDDEN = 4 * (FEATURES * 2 + 2 + 2 * CLASSES + CLASSES)
LINEAR = Digits(softmax_regression)

SERVER: dict[str, Record] = {
    "feddyn": Record(
        task=logistic,
        bytes=(MODEL, MODEL, MODEL),
        limit="whatever its numbers, the server adds the clients' dual variables",
        digits=Digits(softmax_regression, options={"alpha": 0.1}),
    ),
    "fednova": Record(
        task=logistic, bytes=(MODEL, MODEL + 4, 0), limit=Limit({}, 1e-6), digits=LINEAR
    ),
    "fedexp": Record(
        task=partial(logistic, hidden=2),  # where clients disagree enough for a longer step
        bytes=(HIDDEN, HIDDEN + 4, 0),
        limit=Limit({"eps": 1e9}, 1e-6, uniformly),
        digits=LINEAR,
        vary={"eps": 0.1},
    ),
    "qfedavg": Record(
        task=logistic,
        bytes=(MODEL, MODEL + 4, 0),
        limit=Limit({"q": 0.0}, 1e-6, uniformly),
        digits=LINEAR,
    ),
    "feddisco": Record(
        task=logistic,
        bytes=(MODEL, MODEL + 4 * CLASSES, 0),
        limit=Limit({"a": 0.0, "b": 0.0}, 1e-6),
        digits=LINEAR,
    ),
    "agnostic_fedavg": Record(
        task=logistic,
        bytes=(MODEL + 4, MODEL + 8, 0),
        limit=Limit({"domains": 1}, 1e-6),
        digits=Digits(softmax_regression, {"client_lr": 0.5}, {"population": 100}),
        options={"population": len(SIZES)},
    ),
    "heterofl": Record(
        task=partial(logistic, hidden=2),
        # What a slice weighs is told by the round: this is all of it, and who holds what.
        bytes=(HIDDEN, HIDDEN + 4 * (2 + 2 * CLASSES), 0),
        limit=Limit({"rates": (1.0,), "absent": "kept"}, 1e-6, uniformly),
        digits=Digits(network, {"client_lr": 0.1}, {"rates": (1.0, 0.5)}),
        options={"rates": (1.0, 0.5)},
    ),
}
