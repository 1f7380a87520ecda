"""The records of methods that correct local gradients, or let their rate fall within a round."""

from __future__ import annotations

from digits import softmax_regression
from federations import CLASSES, COHORTS, FEATURES, logistic
from methods import Digits, Limit, Record, uniformly

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
FIRST = COHORTS[:1]
LINEAR = Digits(softmax_regression)
STEADY = {"rho": 1.0, "alpha": 1.0}

LINEAR_CORRECTIONS: dict[str, Record] = {
    "feddc": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, 2 * MODEL),
        limit="whatever its numbers, the server adds the clients' drifts",
        digits=Digits(softmax_regression, {"client_lr": 0.05}),
    ),
    "mimelite": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, 0),
        limit=Limit({"momentum": 0.0}, 1e-7, uniformly),
        digits=LINEAR,
        neutral={"clip_change": 1e6},
        vary={"clip_change": 0.01},
    ),
    "mime": Record(
        task=logistic,
        bytes=(3 * MODEL, MODEL, 0),
        limit="it trains in every second round",
        digits=LINEAR,
        rounds=4,  # of which two train
    ),
    "fedswa": Record(
        task=logistic,
        bytes=(MODEL, MODEL, 0),
        limit=Limit(STEADY, 1e-7, uniformly),
        digits=LINEAR,
    ),
    "fedmoswa": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, MODEL),
        limit=Limit(STEADY, 1e-7, uniformly, FIRST),
        digits=LINEAR,
    ),
}
