"""CCVR: exact pooling of what clients describe, and calibration around any algorithm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, federation, gap, logistic, play, rounds, task_of
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import golden

from fedjax_kd.algorithms import ccvr, fedavg, fedbn, fedper, scaffold
from fedjax_kd.components.class_statistics import (
    Moments,
    covariances,
    merged,
    moments,
    pooled,
    square_roots,
)
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training
from fedjax_kd.task import from_nnx
from fedjax_kd.tree import num_bytes
from fedjax_kd.wrappers.ccvr import Retraining, retrained, virtual_features, with_ccvr

EXACT = {"rtol": 1e-12, "atol": 1e-12}
FIT = local_training(client_lr=0.1, batch_size=4)
SHORT: dict[str, Any] = {"virtual": 5, "head_epochs": 2, "head_batch": 4}
EVERYONE = (0, 2, 3, 4, 5)


@pytest.mark.usefixtures("float64")
def test_golden_merge():
    vectors = golden("ccvr_merge")
    counts = vectors["in_counts"].astype(float)
    within = np.einsum("k,kde->de", np.maximum(counts - 1, 0), vectors["in_sigma_k"])
    each = [vectors[f"in_f{k}"] for k in range(3)]

    @jax.jit
    def merge(means: jax.Array) -> Any:
        together = pooled(counts[:, None], means[:, None], within[None])
        of_rows = [moments(f, jnp.zeros(len(f), int), jnp.ones(len(f)), 1) for f in each]
        again = merged(merged(of_rows[0], of_rows[1]), of_rows[2])
        return together, again, covariances(together), square_roots(covariances(together))

    together, again, (covariance,), (root,) = merge(vectors["in_mu_k"])
    np.testing.assert_allclose(together.means[0], vectors["out_mu"], **EXACT)
    np.testing.assert_allclose(covariance, vectors["out_sigma"], **EXACT)
    assert np.abs(covariance - vectors["out_sigma_biased_bug"]).max() > 1e-3
    assert gap(again, together) < 1e-12
    # Their draws take Cholesky's root of the covariance: another one, but for a rotation.
    drawn = vectors["out_sample"] - vectors["out_mu"]
    rotated = np.linalg.solve(root, drawn.T).T
    np.testing.assert_allclose(rotated @ rotated.T, vectors["in_z"] @ vectors["in_z"].T, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e3]))
def test_pooled_moments_are_those_of_all_features(seed: int, offset: float):
    """Also in float32, and where means are a thousand times larger than what they differ by."""
    rng = np.random.default_rng(seed)
    labels, owners = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    z = rng.normal(size=(40, 2)) + offset + rng.normal(size=(4, 1))[owners]
    own = [moments_of(z, labels, (owners == k).astype(np.float32)) for k in range(4)]
    sent = [jnp.stack([m[i] for m in own]) for i in range(3)]
    seen = pooled(sent[0], sent[1], sent[2].sum(0))
    for label in range(3):
        mine = z[labels == label]
        assert float(seen.counts[label]) == len(mine)
        np.testing.assert_allclose(seen.means[label], mine.mean(0), rtol=1e-5, atol=1e-5)
        expected = np.cov(mine.T) if len(mine) > 1 else 0
        np.testing.assert_allclose(covariances(seen)[label], expected, rtol=1e-2, atol=1e-2)


@jax.jit
def moments_of(z: jax.Array, labels: jax.Array, weights: jax.Array) -> Moments:
    return moments(z.astype(jnp.float32), labels, weights, 3)


def test_roots_of_singular_covariances():
    z = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    singular = np.stack([np.cov(z.T), np.zeros((8, 8)), np.eye(8)]).astype(np.float32)
    roots = np.asarray(square_roots(jnp.asarray(singular)))
    np.testing.assert_allclose(roots @ roots, singular, atol=1e-5)
    np.testing.assert_array_equal(roots[1], 0)
    assert np.linalg.matrix_rank(roots[0], tol=1e-4) == 2


def test_virtual_features_follow_the_moments():
    covariance = jnp.array([[[2.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    counts, means = jnp.array([11.0, 7.0]), jnp.array([[1.0, 2.0], [4.0, 0.25]])
    described = Moments(counts, means, covariance * (counts - 1)[:, None, None])
    drawn = virtual_features(jax.random.key(0), described, 4000)
    np.testing.assert_allclose(drawn.mean(1), means, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn[0].T), covariance[0], atol=0.15)
    np.testing.assert_array_equal(drawn[1], np.broadcast_to(means[1], (4000, 2)))
    back = virtual_features(jax.random.key(0), described, 2, tukey=0.5)
    np.testing.assert_allclose(back[1], np.broadcast_to([16.0, 0.0625], (2, 2)))


class Normed(nnx.Module):
    """Normalised inputs as features."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(FEATURES, epsilon=0.1, rngs=rngs)
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.norm(x)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


def test_features_are_those_of_evaluation():
    """Normalised by running statistics, not augmented; every example counts once."""
    data = federation()
    task = from_nnx(Normed, augment=lambda key, x: x + 5, example_x=data.train.x[:1])
    state, (report,) = play(ccvr(task, FIT, after=0, **SHORT), data.train, [EVERYONE])
    start = task.init(jax.random.key(0))
    z, y = np.asarray(task.features(start, data.train.x)), np.asarray(data.train.y)
    for label in range(CLASSES):
        mine = z[y == label]
        np.testing.assert_allclose(state.server.extra.means[label], mine.mean(0), atol=1e-6)
        covariance = covariances(state.server.extra)[label]
        np.testing.assert_allclose(covariance, np.cov(mine.T), atol=1e-5)
    loss = task.example_loss(task.apply(start, data.train.x)[0], data.train.y).mean()
    np.testing.assert_allclose(report.metrics["loss"], loss, rtol=1e-5)
    assert float(report.metrics["steps"]) == 0
    model = state.server.base.model
    assert gap(model.stats, start.stats) == 0
    assert gap(model.params["norm"], start.params["norm"]) == 0
    after = task.example_loss(task.apply(model, data.train.x)[0], data.train.y).mean()
    assert float(after) < float(loss)


def test_around_scaffold():
    """Its clients and its server rest; only the head of its model changes, round after round."""
    pool, task = federation().train, logistic(hidden=2)
    calibrated = with_ccvr(scaffold(task, FIT), task, after=1, **SHORT)
    (trained, first), (once, second) = rounds(calibrated, pool, [(4, 0), (4, 3)])
    assert gap(once.clients, trained.clients) == 0
    assert gap(once.server.base.control, trained.server.base.control) == 0
    before, after = (state.server.base.base.model for state in (trained, once))
    assert gap(after.params[0], before.params[0]) == 0
    assert gap(after.params[1], before.params[1]) > 1e-3
    assert float(once.server.extra.counts.sum()) == 12 + 5
    sent, described = 2 * num_bytes(before), num_bytes(once.server.extra)
    wires = [np.stack([r.wire[0].up, r.wire[0].down])[:, :2] for r in (first, second)]
    np.testing.assert_array_equal(wires, [[[sent] * 2] * 2, [[described] * 2, [sent / 2] * 2]])


def test_a_class_of_one_feature_is_left_out():
    """And so is one that nobody holds: without classes the head stays as it was."""
    task, how = logistic(hidden=2), Retraining(3, "equal", None, 0.1, 0.9, 2, 4)
    model = task.init(jax.random.key(0))

    def after(counts: list[float]) -> Variables:
        many = Moments(jnp.array(counts, jnp.float32), jnp.ones((3, 2)), jnp.ones((3, 2, 2)))
        return retrain(many)

    retrain = jax.jit(lambda known: retrained(jax.random.key(1), task, model, known, how))
    assert gap(after([1, 0, 1]), model) == 0
    alone = after([5, 1, 0])
    assert gap(alone.params[0], model.params[0]) == 0
    assert gap(alone, model) > 1e-3
    assert gap(alone, after([50, 0, 0])) > 0, "the covariance follows the count"
    logits = task.classify(alone, jnp.ones((1, 2)))
    assert int(logits.argmax()) == 0


def test_a_model_that_is_not_found_may_be_shown():
    task = from_nnx(Normed, example_x=federation().train.x[:1])
    base = fedbn(task, FIT)
    with pytest.raises(ValueError, match="holds 0 models of the task's shapes"):
        with_ccvr(base, task, after=1)
    shown = with_ccvr(
        base,
        task,
        after=1,
        model_of=lambda server: combine(server.base.model, server.initial),
        with_model=lambda server, model: server,
    )
    plain, types = (check_algorithm(a, federation().train) for a in (base, shown))
    assert types.bytes_down == plain.bytes_down + 4 * (FEATURES * CLASSES + CLASSES + 4 * FEATURES)


WRONG = [
    ({"after": -1}, "after is -1, but must be >= 0"),
    ({"virtual": 0}, "virtual is 0, but must be >= 1"),
    ({"shares": "many"}, "shares is 'many', but must be one of counts, equal"),
    ({"tukey": 0.0}, r"tukey is 0.0, but must be in \(0, 1\]"),
    ({"tukey": 2.0}, "tukey is 2.0"),
    ({"head_lr": -1.0}, "head_lr is -1.0"),
    ({"head_momentum": 1.5}, r"head_momentum is 1.5, but must be in \[0, 1\)"),
    ({"head_epochs": 0}, "head_epochs is 0"),
    ({"head_batch": 0}, "head_batch is 0"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_options_out_of_range(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ccvr(logistic(2), FIT, **{"after": 1} | wrong)


class Headless(nnx.Module):
    """A network whose features are its outputs."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.layer(x)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.features(x)


def test_tasks_that_cannot_be_calibrated():
    task = logistic(2)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        ccvr(task._replace(input_types=None), FIT, after=1)
    with pytest.raises(ValueError, match="does not give logits of features"):
        ccvr(task._replace(classify=None), FIT, after=1)
    with pytest.raises(ValueError, match="so that it has no head"):
        ccvr(from_nnx(Headless, example_x=federation().train.x[:1]), FIT, after=1)
    maps = task._replace(features=lambda model, x, key=None: x[:, None, :2])
    with pytest.raises(ValueError, match="one vector a prediction"):
        ccvr(maps._replace(classify=lambda model, z: z[:, 0, :]), FIT, after=1)
    with pytest.raises(ValueError, match="give both or neither"):
        with_ccvr(fedavg(task, FIT), task, after=1, model_of=lambda server: server.model)
    with pytest.raises(ValueError, match="holds 0 models"):
        with_ccvr(fedper(task, FIT), task, after=1)
    linear = task_of(task.init, task.apply)._replace(input_types=task.input_types)
    with pytest.raises(ValueError, match="does not give logits of features"):
        ccvr(linear, FIT, after=1)
