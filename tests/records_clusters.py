"""The records of methods with several models, among which clients choose or which they mix."""

from __future__ import annotations

from functools import partial

from digits import network
from federations import CLASSES, FEATURES, SIZES, logistic
from methods import Digits, Limit, Record, uniformly

hidden = partial(logistic, hidden=2)

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
BOTH = 4 * (FEATURES * 2 + 2 + 2 * CLASSES + CLASSES)  # of two hidden units
NETWORK = Digits(network, {"client_lr": 0.1})

CLUSTERS: dict[str, Record] = {
    "hypcluster": Record(
        task=logistic,
        # Up, shapes have room for both models and say which; what is sent is one, see its tests.
        bytes=(2 * MODEL, 2 * (MODEL + 4), 0),
        limit=Limit({"clusters": 1}),
        digits=NETWORK,
    ),
    "ifca": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * (MODEL + 4), 0),
        limit=Limit({"clusters": 1}, equals=uniformly),
        digits=NETWORK,
    ),
    "fedem": Record(
        task=logistic,
        bytes=(3 * MODEL, 3 * MODEL, 4 * 3),  # a mixture
        limit=Limit({"components": 1}, gap=1e-7),
        digits=Digits(network, {"client_lr": 0.3}),
    ),
    "pfedsim": Record(
        task=hidden,
        bytes=(BOTH, BOTH, 4),  # the client's number
        limit=Limit({"warmup": 99}, gap=1e-7),  # the server averages
        digits=Digits(network, {"client_lr": 0.1}, {"population": 100, "warmup": 8}),
        options={"population": len(SIZES), "warmup": 1},
    ),
}
