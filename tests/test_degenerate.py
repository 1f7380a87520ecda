"""Every method's declared limit: there it is FedAvg, and FedAvg of one client is plain SGD."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from federations import (
    CLASSES,
    COHORTS,
    SIZES,
    TASKS,
    federation,
    gap,
    logistic,
    play,
    public,
    task_for,
)

from fedjax_kd.algorithms import (
    REGISTRY,
    ccvr,
    fedadagrad,
    fedadam,
    fedalign,
    fedavg,
    fedavgm,
    fedbn,
    feddf,
    fedgen,
    fedgkt,
    fedgradaug,
    fedkd,
    fedlsd,
    fedmd,
    fedmixup,
    fedntd,
    fedper,
    fedprox,
    fedsgd,
    fedyogi,
    localkd,
    moon,
    perfedavg,
    pfedhn,
    pfedhn_pc,
    scaffold,
    standalone,
)
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, State, Variables
from fedjax_kd.local import local_training
from fedjax_kd.task import Task

FIT = local_training(client_lr=0.1, batch_size=0, epochs=3)
ONE_STEP = local_training(client_lr=1.0, batch_size=0)
# The step is Delta / (1 + sqrt(v) / tau), and v starts at `initial`: off by |Delta| / 1e6.
LIMIT = {"eta": 1e6, "beta_1": 0.0, "tau": 1e6, "initial": 0.0}

# A hypernetwork of biases alone makes the same model for all.
ONE_MODEL = {"population": len(SIZES), "hidden": 0, "start": "model", "server_lr": 1.0}
ONE_MODEL |= {"server_momentum": 0.0, "server_decay": 0.0, "server_clip": 1e6}


def averaged(task: Task) -> Algorithm:
    """FedAvg, where clients vote by their examples."""
    return fedavg(task, FIT)


def uniformly(task: Task) -> Algorithm:
    """FedAvg, where clients vote alike."""
    return fedavg(task, FIT, weighting="uniform")


# method, its degenerate case, the FedAvg that it equals, cohorts, largest difference
CASES: dict[str, tuple[Callable[..., Algorithm], Callable[..., Algorithm], Any, float]] = {
    "fedsgd": (
        lambda task: fedsgd(task, eta=0.3),
        lambda task: fedavg(task, ONE_STEP, server_lr=0.3),
        COHORTS,
        0,
    ),
    "fedavg": (
        lambda task: fedavg(task, FIT, weighting="examples"),
        uniformly,
        [(4,), (0,)],  # one client has all the votes, however they are counted
        1e-7,
    ),
    "fedavgm": (
        lambda task: fedavgm(task, FIT, beta=0.0),
        averaged,
        COHORTS,
        1e-7,  # XLA fuses the multiplications differently when it must also keep the momentum
    ),
    "fedadagrad": (
        lambda task: fedadagrad(task, FIT, **LIMIT),
        averaged,
        COHORTS,
        1e-6,
    ),
    "fedadam": (
        lambda task: fedadam(task, FIT, **LIMIT),
        averaged,
        COHORTS,
        1e-6,
    ),
    "fedyogi": (
        lambda task: fedyogi(task, FIT, **LIMIT),
        averaged,
        COHORTS,
        1e-6,
    ),
    "fedprox": (
        lambda task: fedprox(task, FIT, mu=0.0),
        averaged,
        COHORTS,
        0,
    ),
    "scaffold": (
        lambda task: scaffold(task, FIT),
        uniformly,
        COHORTS[:1],
        0,
    ),
    "fedntd": (
        lambda task: fedntd(task, FIT, beta=0.0),
        averaged,
        COHORTS,
        0,
    ),
    "perfedavg": (
        lambda task: perfedavg(task, FIT, alpha=0.0),
        uniformly,
        COHORTS,
        1e-6,
    ),
    "fedbn": (
        lambda task: fedbn(task, FIT),
        averaged,
        [(4,)] * 3,
        1e-6,
    ),
    "standalone": (
        lambda task: standalone(task, FIT),
        averaged,
        [(4,)] * 3,
        1e-6,
    ),
    "fedper": (
        lambda task: fedper(task, FIT, personal=partial(jax.tree.map, lambda _: False)),
        averaged,
        COHORTS,
        1e-7,  # XLA fuses otherwise where the model is put together
    ),
    "fedlsd": (
        lambda task: fedlsd(task, FIT, beta=0.0),
        averaged,
        COHORTS,
        0,
    ),
    "localkd": (
        lambda task: localkd(task, FIT, beta=0.0),
        averaged,
        COHORTS,
        0,
    ),
    "fedkd": (
        lambda task: fedkd(task, FIT, beta=0.0, t_min=1.0, t_max=1.0),
        uniformly,
        COHORTS,
        1e-6,
    ),
    "fedalign": (
        lambda task: fedalign(task, FIT, mu=0.0),
        averaged,
        COHORTS,
        1e-7,  # XLA fuses otherwise where the block's output is kept
    ),
    "fedmixup": (
        lambda task: fedmixup(task, FIT, gamma=0.0),
        averaged,
        COHORTS,
        1e-7,
    ),
    "fedgradaug": (
        lambda task: fedgradaug(task, FIT, mu=0.0, subnets=1),
        averaged,
        COHORTS,
        1e-7,
    ),
    "pfedhn": (
        lambda task: pfedhn(task, FIT, **ONE_MODEL),
        uniformly,
        COHORTS,
        1e-6,
    ),
    "pfedhn_pc": (
        lambda task: pfedhn_pc(task, FIT, **ONE_MODEL),
        lambda task: fedper(task, FIT, weighting="uniform"),
        COHORTS,
        1e-6,
    ),
    "moon": (
        lambda task: moon(task, FIT, mu=0.0),
        averaged,
        COHORTS,
        1e-7,  # XLA fuses otherwise where the model's features are kept
    ),
    "fedgen": (
        lambda task: fedgen(task, FIT, alpha=0.0, beta=0.0, generator_steps=1),
        averaged,
        COHORTS,
        1e-7,  # heads are averaged by the server
    ),
    "feddf": (
        lambda task: feddf(task, FIT, distil_steps=0),
        uniformly,
        COHORTS,
        1e-7,  # the server averages
    ),
    "fedmd": (
        lambda task: fedmd(
            task._replace(init=lambda key: task.init(jax.random.key(0))),  # as the server's
            FIT,
            classes=CLASSES,
            alignment=6,
            public_lr=0.0,
        ),
        averaged,
        [(4,)] * 3,
        1e-6,
    ),
    "fedgkt": (
        lambda task: fedgkt(
            task, FIT, population=6, capacity=12, classes=CLASSES, server_hidden=(), alpha=0.0
        ),
        averaged,
        [(4,)] * 3,
        1e-6,
    ),
    "ccvr": (
        lambda task: ccvr(task, FIT, after=len(COHORTS)),
        averaged,
        COHORTS,
        1e-7,
    ),
}


def model(state: Any) -> Variables:
    """The global model, wherever the method keeps it."""
    server = state.server
    if hasattr(server, "learning"):  # it makes the models, of which clients may keep a part
        shared = Variables(server.learning.net.heads.bias, server.stats)
        return combine(shared, jax.tree.map(lambda a: a[4], state.clients[0].model))
    if type(server) is tuple:  # of several architectures
        server = server[0]
    if hasattr(server, "initial"):  # the rest is at home; clients who share all keep nothing
        return combine(server.base.model, jax.tree.map(lambda a: a[4], state.clients[0]))
    if hasattr(server, "base"):
        return server.base.model
    if hasattr(server, "model"):
        return server.model
    own = jax.tree.map(lambda a: a[4], state.clients[0])  # there is no global one
    return getattr(own, "model", own)


@cache
def reference_of(
    reference: Callable[..., Algorithm], make: Callable[[], Task], cohorts: Any
) -> State:
    """What FedAvg makes of these cohorts; many methods equal the same."""
    return play(reference(make()), federation().train, cohorts)[0]


@pytest.mark.parametrize("name", REGISTRY)
def test_degenerate_case_is_fedavg(name: str):
    method, reference, cohorts, allowed = CASES[name]
    pool, task = federation().train, task_for(name)
    one, _ = play(method(task), pool, cohorts, public=public())
    other = reference_of(reference, TASKS.get(name, logistic), tuple(cohorts))
    assert gap(model(one), model(other)) <= allowed
    assert gap(model(one), task.init(jax.random.key(0))) > 1e-2, "something was learnt"


def test_scaffold_with_everyone_present_keeps_the_mean_control():
    pool = federation((4, 3, 5)).train
    state, _ = play(scaffold(logistic(), FIT), pool, [(0, 1, 2)] * 3)
    expected = jax.tree.map(lambda a: a.mean(0), state.clients[0])
    assert gap(state.server.control, expected) < 1e-6
    assert gap(state.server.control, jax.tree.map(jnp.zeros_like, expected)) > 1e-3
