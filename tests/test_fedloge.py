"""FedLoGe: who teaches whom, what is sent, and classes that a client lacks."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, federation, gap, logistic, play

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import fedloge
from fedjax_kd.components import simplex
from fedjax_kd.components.linear_head import adapted, linear_head, realigned
from fedjax_kd.core import Batch, Variables
from fedjax_kd.local import local_training

WIDTH, LR, STEPS = 4, 0.1, 3
FIT = local_training(client_lr=LR, batch_size=0, epochs=STEPS)
MAKE = partial(fedloge, anchor_steps=20)
X = jax.random.normal(jax.random.key(7), (5, FEATURES))


def descended(params: Any, head: Any, anchors: jax.Array, client: int) -> tuple[Any, Any]:
    """Body and head, and the own head, after local steps by hand."""
    task, data = logistic(hidden=WIDTH), federation()
    rows = data.parts[client]
    batch = Batch(data.train.x[rows], data.train.y[rows], jnp.ones(len(rows)))

    def body(layer: Any) -> jax.Array:
        features = task.features(Variables([layer, head]), batch.x)
        return losses.cross_entropy(features @ anchors, batch.y).mean()

    def of_head(layer: Any, features: jax.Array) -> jax.Array:
        logits = features @ layer["w"] + layer["b"][None]
        return losses.cross_entropy(logits, batch.y).mean()

    for _ in range(STEPS):
        features = task.features(Variables(params), batch.x)
        grads = [jax.grad(body)(params[0]), jax.grad(of_head)(params[1], features)]
        own = jax.grad(of_head)(head, features)
        params, head = (
            jax.tree.map(lambda w, g: w - LR * g, old, g)
            for old, g in ((params, grads), (head, own))
        )
    return params, head


def test_two_rounds_by_hand():
    task, cohorts = logistic(hidden=WIDTH), [(4,), (4,)]
    state, reports = play(MAKE(task, FIT), federation().train, cohorts)
    params = task.init(jax.random.key(0)).params
    head = params[1]
    for _ in cohorts:
        params, head = descended(params, head, state.server.anchors, 4)
    assert gap(state.server.base.model.params, params) < 1e-6
    own = jax.tree.map(lambda a: a[4], state.clients[0]).params[1]
    assert gap(own, head) < 1e-6
    sizes = {int(report.wire[0].down.sum()) for report in reports}
    assert sizes == {tree.num_bytes(state.server.base.model)}, "anchors are of one seed"


def test_anchors_never_change():
    algorithm = MAKE(logistic(hidden=WIDTH), FIT)
    first = algorithm.server_init(jax.random.key(0))
    state, _ = play(algorithm, federation().train, [(0, 4)] * 2)
    assert gap(state.server.anchors, first.anchors) == 0
    assert first.anchors.shape == (WIDTH, CLASSES)


def test_a_client_predicts_among_the_classes_that_it_holds():
    task, pool = logistic(hidden=WIDTH), federation().train
    held = pool._replace(y=jnp.where(pool.y == 1, 0, pool.y))
    algorithm = MAKE(task, FIT)
    state, _ = play(algorithm, held, [(0, 4)])
    clients = [jax.tree.map(lambda a, k=k: a[k], state.clients[0]) for k in range(6)]
    adapt = {
        k: algorithm.personalise(jax.random.key(0), state.server, clients[k], held.of(jnp.int32(k)))
        for k in (1, 2, 4)
    }
    assert adapt[4].present.tolist() == [True, False, True]
    assert adapt[2].present.sum() == 1, "its only example"
    assert adapt[1].present.tolist() == [True, True, True], "nothing is known without examples"
    seen = algorithm.predict(state.server, adapt[4], X)
    model = state.server.base.model
    generic = linear_head(task, model)
    own = linear_head(task, Variables([model.params[0], clients[4].params[1]]))
    features = task.features(model, X)
    np.testing.assert_allclose(seen[:, ::2], adapted(generic, own)(features)[:, ::2], rtol=1e-5)
    assert float(seen[:, 1].max()) < -1e6
    assert bool(tree.is_finite(seen))
    newcomer = algorithm.client_init(jax.random.key(3), state.server)
    for_all = algorithm.predict(state.server, newcomer, X)
    np.testing.assert_allclose(for_all, realigned(generic)(features), rtol=1e-5)


def test_lengths_after_realignment():
    task = logistic(hidden=WIDTH)
    model = task.init(jax.random.key(0))
    own = model._replace(params=jax.tree.map(lambda a: 3 * a + 1, model.params))
    generic, its = linear_head(task, model), linear_head(task, own)
    np.testing.assert_allclose(generic.weight, model.params[1]["w"], atol=1e-6)
    np.testing.assert_allclose(realigned(generic).lengths, 1.7, rtol=1e-5)
    for variant, factor in (("paper", 1 / generic.lengths), ("code", jnp.ones(CLASSES))):
        shared = adapted(generic, its, variant).weight - its.weight
        expected = generic.weight * (its.lengths * factor)[None]
        np.testing.assert_allclose(shared, expected, rtol=1e-4, atol=1e-6)


def test_a_class_without_weights_has_no_direction():
    task = logistic(hidden=WIDTH)
    model = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    generic = linear_head(task, model)
    for head in (realigned(generic), adapted(generic, generic)):
        assert bool(tree.is_finite(head))
        assert gap(head.weight, jnp.zeros((WIDTH, CLASSES))) == 0


@pytest.mark.parametrize("beta", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("shape", [(16, 5), (3, 3)])
def test_sparse_frames(shape: tuple[int, int], beta: float):
    mask = simplex.sparse_mask(jax.random.key(1), shape, beta)
    kept = shape[0] * shape[1] - int(beta * shape[0] * shape[1])
    assert kept <= int(mask.sum()) <= max(kept + shape[1], shape[1])
    assert bool(mask.any(0).all()), "no class is without weights"
    frame = simplex.sparse_frame(jax.random.key(2), shape, beta, 0.1, 50)
    assert bool(tree.is_finite(frame))
    assert float(losses.length(frame.T).min()) > 0
    assert int((frame == 0).sum()) >= shape[0] * shape[1] - kept - shape[1]


def test_columns_of_a_sparse_frame_go_apart():
    def nearest(frame: jax.Array) -> float:
        unit = losses.normalised(frame.T)
        return float(jnp.where(jnp.eye(5, dtype=bool), -1, unit @ unit.T).max(1).mean())

    frames = [simplex.sparse_frame(jax.random.key(2), (16, 5), 0.6, 0.1, n) for n in (0, 8000)]
    assert nearest(frames[1]) < nearest(frames[0]) - 0.1
    np.testing.assert_allclose(losses.length(frames[1].T), 0.1, atol=0.05)


WRONG = [
    ({"beta": 1.0}, r"beta is 1.0, but must be in \[0, 1\)"),
    ({"length": 0.0}, r"length is 0.0, but must be > 0"),
    ({"anchor_steps": -1}, "anchor_steps is -1, but must be >= 0"),
    ({"variant": "readme"}, "variant is 'readme', but must be one of paper, code"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_bad_options_are_said(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedloge(logistic(hidden=WIDTH), FIT, **given)


def test_bad_tasks_are_said():
    with pytest.raises(ValueError, match="has 2 features and 3 classes, but FedLoGe places"):
        fedloge(logistic(hidden=2), FIT)
    with pytest.raises(ValueError, match="does not know the shape"):
        fedloge(logistic(hidden=WIDTH)._replace(input_types=None), FIT)
    with pytest.raises(ValueError, match="does not give features and logits in one pass"):
        fedloge(logistic(hidden=WIDTH)._replace(features_and_logits=None), FIT)
