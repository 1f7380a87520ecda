"""The network of many golden vectors: a linear body and a linear head."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import task_of

from fedjax_kd.core import Key, Variables
from fedjax_kd.task import Task


def two_layers(vectors: dict[str, np.ndarray], *head: str) -> Task:
    """A linear body and a linear head, of whose names in the vectors the second is a bias."""

    def both(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any, Any]:
        features = x @ model.params["Wb"].T + model.params["bb"][None]
        return features, classify(model, features), model.stats

    def classify(model: Variables, features: jax.Array) -> jax.Array:
        weight, *bias = (model.params[name] for name in head)
        return features @ weight.T + sum(b[None] for b in bias)

    start = {name: jnp.asarray(vectors[f"in_{name}"]) for name in ("Wb", "bb", *head)}
    task = task_of(lambda key: Variables(start), lambda *args: both(*args)[1:])
    return task._replace(
        features=lambda *args: both(*args)[0],
        features_and_logits=both,
        classify=classify,
        input_types=jax.ShapeDtypeStruct((2, vectors["in_Wb"].shape[1]), float),
    )
