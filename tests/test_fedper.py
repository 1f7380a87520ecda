"""FedPer: the head stays at home, whatever its name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, COHORTS, FEATURES, SIZES, federation, gap, logistic, play

from fedjax_kd.algorithms import fedavg, fedper
from fedjax_kd.components import model_parts
from fedjax_kd.core import Batch, Variables
from fedjax_kd.engine.evaluation import has_personal_model
from fedjax_kd.local import local_training

LR, STEPS = 0.1, 3
FIT = local_training(client_lr=LR, batch_size=0, epochs=STEPS)
X = jnp.zeros((2, FEATURES))


def whole(model: Variables, client: int) -> Variables:
    """One client's model after local training, by plain gradient descent."""
    task, data = logistic(hidden=2), federation()
    rows = data.parts[client]
    batch = Batch(data.train.x[rows], data.train.y[rows], jnp.ones(len(rows)))
    for _ in range(STEPS):
        grads = jax.grad(lambda params: task.loss(Variables(params), batch, None)[0])(model.params)
        model = Variables(jax.tree.map(lambda w, g: w - LR * g, model.params, grads))
    return model


def test_two_rounds_by_hand():
    task, cohorts = logistic(hidden=2), [(0, 4), (4, 5)]
    state, _ = play(fedper(task, FIT), federation().train, cohorts)
    start = task.init(jax.random.key(0))
    body, heads = start.params[0], dict.fromkeys(range(len(SIZES)), start.params[1])
    for cohort in cohorts:
        fitted = {k: whole(Variables([body, heads[k]]), k).params for k in cohort}
        heads |= {k: fitted[k][1] for k in cohort}
        votes = np.array([SIZES[k] for k in cohort], np.float32)
        bodies = [fitted[k][0] for k in cohort]
        body = jax.tree.map(lambda *a, v=votes: np.tensordot(v / v.sum(), np.stack(a), 1), *bodies)
    assert gap(state.server.base.model.params[0], body) < 1e-6
    stacked = jax.tree.map(lambda *a: np.stack(a), *heads.values())
    assert gap(state.clients[0].params[1], stacked) < 1e-6
    assert gap(state.server.initial.params[1], start.params[1]) == 0, "no head has travelled"


def test_one_client_alone_is_fedavg():
    task, pool = logistic(hidden=2), federation().train
    own, _ = play(fedper(task, FIT), pool, [(4,)] * 3)
    common, _ = play(fedavg(task, FIT), pool, [(4,)] * 3)
    head = jax.tree.map(lambda a: a[4], own.clients[0])
    assert gap(model_parts.combine(own.server.base.model, head), common.server.model) < 1e-6


def test_all_at_home_is_local_training():
    task, pool = logistic(hidden=2), federation().train

    def everything(model: Variables) -> Variables:
        return jax.tree.map(lambda _: True, model)

    algorithm = fedper(task, FIT, personal=everything)
    state, _ = play(algorithm, pool, COHORTS)
    alone = whole(whole(task.init(jax.random.key(0)), 4), 4)
    assert gap(jax.tree.map(lambda a: a[4], state.clients[0]), alone) < 1e-5
    assert not jax.tree.leaves(state.server.base.model), "nothing was sent"


def test_clients_use_their_own_head():
    algorithm = fedper(logistic(hidden=2), FIT)
    state, _ = play(algorithm, federation().train, [(0, 4)])
    server, (clients,), _ = state
    heads = [jax.tree.map(lambda a, k=k: a[k], clients) for k in range(len(SIZES))]
    logits = [algorithm.predict(server, own, jnp.ones((1, FEATURES))) for own in heads]
    assert gap(logits[0], logits[4]) > 1e-3
    newcomer = algorithm.client_init(jax.random.key(9), server)
    assert gap(newcomer, heads[2]) == 0, "who was never there has the initial head"
    assert has_personal_model(algorithm, server, newcomer, X)


def test_a_class_nobody_holds_and_an_empty_client():
    data = federation()
    pool = data.train._replace(y=jnp.minimum(data.train.y, CLASSES - 2))
    state, reports = play(fedper(logistic(hidden=2), FIT), pool, [(0, 1, 2)] * 2)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(state))
    assert [float(report.used.sum()) for report in reports] == [2, 2]


def test_bad_tasks_are_said():
    with pytest.raises(ValueError, match="uses no value of the model"):
        fedper(logistic(), FIT)
    with pytest.raises(ValueError, match="does not know the shape"):
        fedper(logistic(hidden=2)._replace(input_types=None), FIT)
    with pytest.raises(TypeError, match="fedper has no option 'mu'"):
        fedper(logistic(hidden=2), FIT, mu=0.1)
