"""The records of methods for retrieval."""

from __future__ import annotations

from functools import partial

import jax
from digits import network
from federations import CLASSES, FEATURES, logistic
from methods import Digits, Limit, Record

BODY, HEAD = 4 * (FEATURES * 2 + 2), 4 * (2 * CLASSES + CLASSES)  # of two hidden units

EVALUATION: dict[str, Record] = {
    "fedpav": Record(
        task=partial(logistic, hidden=2),
        bytes=(BODY, BODY, HEAD),
        # XLA fuses otherwise where the model is put together.
        limit=Limit({"personal": partial(jax.tree.map, lambda _: False), "distil_every": 0}, 1e-7),
        digits=Digits(network, {"client_lr": 0.1}, {"distil_every": 5, "distil_steps": 5}),
        options={"distil_every": 1, "distil_steps": 2, "distil_batch": 4},
        vary={"distil_lr": 0.5},
    ),
}
