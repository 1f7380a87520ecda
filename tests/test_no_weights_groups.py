"""Prototypes and mean logits of clients whose models have several architectures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, federation, gap, rounds, start

from fedjax_kd import train
from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.components.class_means import ClassSums
from fedjax_kd.core import State
from fedjax_kd.engine.validation import check_groups
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)
GROUP_OF = np.array([0, 1, 0, 1, 1, 0])
COHORTS = [(0, 4, 3), (5, 3, 4)]
METHODS = pytest.mark.parametrize(
    "name", ["fedproto", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("fedtgp", "fd"))]
)


def network(*hidden: int, classes: int = CLASSES) -> Task:
    build = MODELS["mlp"]((FEATURES,), classes, hidden=hidden)
    return from_nnx(build, example_x=jnp.zeros((1, FEATURES)))


def dealt(clients: Any) -> tuple[Any, ...]:
    """What all clients keep, group by group."""
    return tuple(
        jax.tree.map(lambda a, g=g: a[np.flatnonzero(g == GROUP_OF)], clients) for g in (0, 1)
    )


def travels(server: Any) -> ClassSums:
    """What the server tells its clients."""
    while not hasattr(server, "of_classes") and not hasattr(server, "table"):
        server = server.base
    return server.of_classes if hasattr(server, "of_classes") else server.table


def last(algorithms: Any, state: State, **how: Any) -> State:
    *_, (after, _) = rounds(algorithms, federation().train, COHORTS, state=state, **how)
    return after


@METHODS
def test_two_groups_of_one_architecture_are_one(name: str):
    alone, groups = REGISTRY[name](network(5), FIT), GROUPS[name]([network(5)] * 2, FIT)
    initial = start([alone], np.zeros(len(GROUP_OF)))
    expected = last(alone, initial)
    server = groups[0].server_init(jax.random.key(0))
    divided = State(server, dealt(*initial.clients))
    found = last(groups, divided, group_of=GROUP_OF)
    assert gap(travels(found.server), travels(expected.server)) < 1e-6
    assert gap(found.clients, dealt(*expected.clients)) < 1e-6


@METHODS
def test_architectures_learn_from_each_other(name: str):
    """In the second round; in the first one nobody has said anything."""
    pairs = [GROUPS[name]([network(5), network(*other)], FIT) for other in ((7, 5), (9, 5))]
    states = [last(groups, start(groups, GROUP_OF), group_of=GROUP_OF) for groups in pairs]
    assert gap(states[0].clients[0], states[1].clients[0]) > 1e-4
    logits = pairs[0][1].predict(
        states[0].server,
        jax.tree.map(lambda a: a[0], states[0].clients[1]),
        federation().test.x,
    )
    assert logits.shape == (len(federation().test.x), CLASSES)


@METHODS
def test_clients_start_differently(name: str):
    groups = GROUPS[name]([network(5), network(7, 5)], FIT)
    own = jax.tree.leaves(start(groups, GROUP_OF).clients[0])
    assert any(float(jnp.abs(a[0] - a[1]).max()) > 0 for a in own)


@METHODS
def test_they_run_from_python(name: str):
    groups = GROUPS[name]([network(5), network(7, 5)], FIT)
    result = train(groups, federation(), group_of=GROUP_OF, num_rounds=2, cohort_size=3)
    assert {"group_0_accuracy", "group_1_accuracy"} < result.history[-1].keys()


@pytest.mark.parametrize(
    ("name", "classes", "hidden"), [("fedproto", 3, (6,)), ("fedtgp", 3, (6,)), ("fd", 4, (5,))]
)
def test_what_travels_must_have_one_shape(name: str, classes: int, hidden: tuple[int, ...]):
    other = network(*hidden, classes=classes)
    with pytest.raises(TypeError, match="group 1 must have group 0's server"):
        check_groups(GROUPS[name]([network(5), other], FIT), federation().train)
