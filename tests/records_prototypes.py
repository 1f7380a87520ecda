"""The records of methods in which no weights travel."""

from __future__ import annotations

from functools import partial

from digits import network
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Record

WIDTH = 2  # hidden units
MODEL = 4 * (FEATURES * WIDTH + WIDTH + WIDTH * CLASSES + CLASSES)  # bytes of float32
PROTOTYPES = 4 * CLASSES * (WIDTH + 1)  # and their counts
LOGITS = 4 * CLASSES * (CLASSES + 1)

NO_WEIGHTS: dict[str, Record] = {
    "fedproto": Record(
        task=partial(logistic, hidden=WIDTH),
        bytes=(PROTOTYPES, PROTOTYPES, MODEL),
        limit="whatever its numbers, no model travels",
        digits=Digits(network, {"client_lr": 0.1}),
    ),
    "fedtgp": Record(
        task=partial(logistic, hidden=WIDTH),
        bytes=(PROTOTYPES, PROTOTYPES, MODEL),
        limit="whatever its numbers, no model travels",
        digits=Digits(network, {"client_lr": 0.1}),
        options={"prototype_steps": 3, "prototype_hidden": 4},
        vary={"tau": 0.01, "prototype_lr": 0.5},
    ),
    "fd": Record(
        task=partial(logistic, hidden=WIDTH),
        bytes=(LOGITS + 4, LOGITS, MODEL + LOGITS + 4),
        limit="whatever its numbers, no model travels",
        digits=Digits(network, {"client_lr": 0.1}),
    ),
}
