"""The records of methods whose clients have a second model, or something like it."""

from __future__ import annotations

from functools import partial

from digits import network
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Limit, Record, uniformly

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
BOTH, HEAD = 4 * (FEATURES * 2 + 2 + 2 * CLASSES + CLASSES), 4 * (2 * CLASSES + CLASSES)
NETWORK = Digits(network, {"client_lr": 0.1})

PERSONAL: dict[str, Record] = {
    # XLA fuses otherwise where a second model is trained.
    "ditto": Record(
        task=logistic, bytes=(MODEL, MODEL, MODEL), limit=Limit({}, gap=1e-7), digits=NETWORK
    ),
    "apfl": Record(
        task=logistic,
        bytes=(MODEL, MODEL, MODEL + 4),  # the share
        limit=Limit({}, 1e-7, uniformly),
        digits=NETWORK,
    ),
    "pfedme": Record(
        task=logistic,
        bytes=(MODEL, MODEL, MODEL),
        # Of lamb, a power of two that its inverse rounds alike.
        limit=Limit(
            {"lamb": 16.0, "inner_steps": 1, "inner_lr": 1 / 16, "inner_start": "model"},
            1e-5,
            uniformly,
        ),
        digits=Digits(network, {"client_lr": 0.05}),
    ),
    "fml": Record(
        task=logistic,
        bytes=(MODEL, MODEL, MODEL),
        limit=Limit({"beta": 1.0}, 1e-7, uniformly),
        digits=NETWORK,
    ),
    "fedala": Record(
        task=partial(logistic, hidden=2),
        bytes=(BOTH, BOTH, BOTH + HEAD + 1),  # weights of the head, and a boolean
        limit=Limit({"eta": 0.0}, 1e-6),
        digits=NETWORK,
        options={"window": 2, "most_epochs": 6},
        vary={"threshold": 1e-9},
    ),
    "knnper": Record(
        task=partial(logistic, hidden=2),
        bytes=(BOTH, BOTH, 0),
        limit=Limit({}),
        digits=NETWORK,
        evaluated={"lamb", "scale"},
    ),
}
