"""The digits of scikit-learn among a hundred clients, and models that learn them in seconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import task_of
from flax import nnx

from fedjax_kd.core import Data, Key, Variables
from fedjax_kd.data import DirichletPartitioner, load
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx


@cache
def digits() -> Federation:
    """A hundred clients, most of them with few labels."""
    split = DirichletPartitioner(num_partitions=100, alpha=0.1, min_partition_size=1, seed=0)
    return federate(load("digits"), split)


@cache
def public() -> Public:
    """Some clients' rows, at which everyone may look."""
    x, y = digits().train.x[:100], digits().train.y[:100]
    return Public(Stored(x), Data.all_of(x, y))


@cache
def cohorts() -> list[np.ndarray]:
    """Fifteen rounds with ten clients each."""
    rng = np.random.default_rng(0)
    return [rng.choice(100, 10, replace=False) for _ in range(15)]


def softmax_regression(federation: Federation) -> Task:
    inputs, classes = int(np.prod(federation.input_shape)), federation.num_classes

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        flat = federation.prepare(x).reshape(len(x), inputs)
        return flat @ model.params["w"] + model.params["b"][None], model.stats

    def init(key: Key) -> Variables:
        return Variables({"w": jnp.zeros((inputs, classes)), "b": jnp.zeros(classes)})

    return task_of(init, apply)


def network(federation: Federation) -> Task:
    """One hidden layer, and a head."""
    build = MODELS["mlp"](federation.input_shape, federation.num_classes, hidden=(32,))
    return from_nnx(build, prepare=federation.prepare, example_x=federation.test.x[:1])


def normalised(federation: Federation) -> Task:
    """One hidden layer, normalised."""
    inputs, classes = int(np.prod(federation.input_shape)), federation.num_classes

    def build(rngs: nnx.Rngs) -> nnx.Module:
        first, last = nnx.Linear(inputs, 32, rngs=rngs), nnx.Linear(32, classes, rngs=rngs)
        norm = nnx.BatchNorm(32, momentum=0.8, rngs=rngs)
        return nnx.Sequential(lambda x: x.reshape(len(x), -1), first, norm, nnx.relu, last)

    return from_nnx(build, prepare=federation.prepare)
