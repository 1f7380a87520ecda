"""Every method learns the digits of scikit-learn from skewed clients within seconds."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import rounds, task_of
from flax import nnx

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Algorithm, Data, Key, State, Variables
from fedjax_kd.data import DirichletPartitioner, load
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.engine.evaluation import has_personal_model, personal_tallies
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx

LEAST = 0.6  # accuracy after these rounds; guessing gives 0.1
FIT = {"client_lr": 0.02, "batch_size": 10}
OPTIONS: dict[str, dict[str, Any]] = {
    "pfedhn": {"population": 100, "hidden": 20, "server_lr": 0.3},
    "pfedhn_pc": {"population": 100, "hidden": 20, "server_lr": 0.3},
    "fedsgd": {"eta": 0.2},
    "fedadam": {"eta": 0.03},
    "fedyogi": {"eta": 0.03},
    "fedmd": {"classes": 10, "alignment": 100},
    "fedgkt": {"population": 100, "capacity": 61, "classes": 10, "server_hidden": (32,)},
    "fedgen": {"generator_steps": 10, "generator_hidden": 32},
    "ccvr": {"after": 10},
    "feddf": {"distil_steps": 20},
}


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


TASKS = {
    "fedalign": network,
    "fedgradaug": network,
    "fedbn": normalised,
    "fedper": network,
    "moon": network,
    "fedkd": network,
    "pfedhn_pc": network,
    "fedgen": network,
    "fedmd": network,
    "fedgkt": network,
    "ccvr": network,
    "feddf": network,
}
FITS = {  # a network needs longer steps
    "fedalign": {"client_lr": 0.1, "clip_norm": 10.0},
    "fedgradaug": {"client_lr": 0.1},
    "fedbn": {"client_lr": 0.1},
    "fedper": {"client_lr": 0.1},
    "moon": {"client_lr": 0.1},
    "fedkd": {"client_lr": 0.1},
    "pfedhn": {"client_lr": 0.1},
    "pfedhn_pc": {"client_lr": 0.1},
    "fedgen": {"client_lr": 0.1},
    "fedmd": {"client_lr": 0.1},
    "fedgkt": {"client_lr": 0.1},
    "ccvr": {"client_lr": 0.1},
    "feddf": {"client_lr": 0.1},
}


def accuracy(algorithm: Algorithm, state: State) -> float:
    """On the test set; with models of their own, that of the clients which were in a cohort."""
    federation, key = digits(), jax.random.key(0)
    newcomer = algorithm.client_init(key, state.server)
    if not has_personal_model(algorithm, state.server, newcomer, federation.test.x[:2]):
        logits = algorithm.predict(state.server, newcomer, federation.test.x)
        return float((logits.argmax(-1) == federation.test.y).mean())
    met = np.unique(cohorts())
    clients = jax.tree.map(lambda a: a[met], state.clients[0])
    pools = (federation.train, federation.client_test)
    tallies = personal_tallies(
        algorithm, key, (state.server, clients), jnp.asarray(met), pools, at_once=8
    )
    return float(tallies.correct.sum() / tallies.counted.sum())


@pytest.mark.parametrize("name", REGISTRY)
def test_learns_digits(name: str):
    federation, factory = digits(), REGISTRY[name]
    task = TASKS.get(name, softmax_regression)(federation)
    needs_fit = "fit" in inspect.signature(factory).parameters
    fit = local_training(**FIT | FITS.get(name, {}))
    parts = (task, fit) if needs_fit else (task,)
    algorithm = factory(*parts, **OPTIONS.get(name, {}))
    *_, (state, report) = rounds(algorithm, federation.train, cohorts(), public=public())
    assert accuracy(algorithm, state) > LEAST
    assert float(report.rejected.sum()) == 0
