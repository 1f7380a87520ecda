"""The records of methods of which a part of the model stays at home."""

from __future__ import annotations

from functools import partial

import jax
from digits import network
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Limit, Record

BODY, HEAD = 4 * (FEATURES * 2 + 2), 4 * (2 * CLASSES + CLASSES)  # of two hidden units
WIDE = 4 * (FEATURES * 4 + 4) + 4 * (4 * CLASSES + CLASSES)  # of four hidden units
NOTHING = {"personal": partial(jax.tree.map, lambda _: False)}
NETWORK = Digits(network, {"client_lr": 0.1})  # which needs longer steps

PARTIAL: dict[str, Record] = {
    "fedbabu": Record(
        task=partial(logistic, hidden=2),
        bytes=(BODY, BODY, HEAD),
        # XLA fuses otherwise where the model is put together.
        limit=Limit(NOTHING | {"tune_epochs": 0}, gap=1e-7),
        digits=NETWORK,
        neutral={"tune_lr": 0.1},  # that of the contract's local training
        evaluated={"tune_lr"},
    ),
    "fedrep": Record(
        task=partial(logistic, hidden=2),
        bytes=(BODY, BODY, HEAD),
        limit=Limit(NOTHING, gap=1e-7),
        digits=NETWORK,
        options={"head_epochs": 2},
    ),
    "fedloge": Record(
        task=partial(logistic, hidden=4),  # no fewer features than classes
        bytes=(WIDE + 4 * 4 * CLASSES, WIDE, 4 * (4 * CLASSES + CLASSES)),
        limit="whatever its numbers, another classifier teaches the body",
        digits=Digits(network, {"client_lr": 0.1}, {"anchor_steps": 100, "length": 1.0}),
        options={"anchor_steps": 20},
        vary={"length": 2.0},
    ),
}
