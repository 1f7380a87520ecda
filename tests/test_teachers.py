"""FedNTD, FedLSD and MOON, whose local losses ask the received model, and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, COHORTS, federation, gap, logistic, play
from flax import nnx
from objectives import local_loss, table, wide
from vectors import golden, keys_of, number

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import REGISTRY, fedavg, fedlsd, fedntd
from fedjax_kd.core import Algorithm, Batch, Data, Key, Pool, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.task import from_nnx

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
EXACT = {"rtol": 1e-12, "atol": 1e-12}
FIT = local_training(client_lr=0.1, batch_size=4)
TEACHERS = pytest.mark.parametrize(
    "name", ["fedntd", pytest.param("fedlsd", marks=pytest.mark.thorough), "moon"]
)
KEY = jax.random.key(3)


def at_vectors(
    factory: Callable[..., Algorithm], vectors: dict[str, np.ndarray], **given: Any
) -> tuple[jax.Array, Any]:
    """`local_loss` of a method at the logits of a file of vectors."""
    logits, teacher = wide(vectors["in_logits"]), Variables(wide(vectors["in_global_logits"]))
    x = jnp.arange(len(logits), dtype=jnp.int32)
    task = table(*logits.shape)
    make = partial(factory, task, **given)
    return local_loss(make, teacher, logits, x, wide(vectors["in_targets"]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("ntd_loss", r"out_loss_tau(\w+)_beta(\w+)"))
def test_golden_fedntd(key: str, parts: tuple[str, str]):
    vectors, (tau, beta) = golden("ntd_loss"), map(number, parts)
    value, grads = at_vectors(fedntd, vectors, tau=tau, beta=beta)
    np.testing.assert_allclose(value, vectors[key], **TORCH)
    np.testing.assert_allclose(grads, vectors[key.replace("loss", "grad")], **TORCH)


LSD_KEY = r"out_loss_(kl|xe)_(tau2|notau2)_tau(\w+)_beta(\w+)"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("lsd_loss", LSD_KEY))
def test_golden_fedlsd(key: str, parts: tuple[str, ...]):
    vectors, (form, factor, tau, beta) = golden("lsd_loss"), parts
    given = {"tau": number(tau), "beta": number(beta), "scaled": factor == "tau2"}
    value, grads = at_vectors(fedlsd, vectors, **given)
    np.testing.assert_allclose(grads, vectors[key.replace("loss", "grad")], **EXACT)
    if form == "kl":  # cross-entropy has the same gradient
        np.testing.assert_allclose(value, vectors[key], **EXACT)


@pytest.mark.usefixtures("float64")
def test_fedlsd_without_the_label_mixes_what_fedntd_adds():
    vectors, beta, tau = golden("ntd_loss"), 0.25, 3.0
    shared, _ = at_vectors(fedlsd, vectors, beta=beta, tau=tau, classes="not_true")
    logits, teacher, y = (
        wide(vectors[f"in_{name}"]) for name in ("logits", "global_logits", "targets")
    )
    term = losses.not_true(logits, teacher, y, tau).mean()
    supervised = losses.cross_entropy(logits, y).mean()
    np.testing.assert_allclose(shared, (1 - beta) * supervised + beta * term, rtol=1e-5)


def test_fedntd_with_two_classes_is_fedavg():
    """There is but one class that is not the label."""
    rows = jnp.arange(20, dtype=jnp.int32)
    pool = Pool(rows, rows % 2, rows, jnp.array([0, 8], jnp.int32), jnp.array([8, 12], jnp.int32))
    one, other = (
        play(factory(table(20, 2), FIT), pool, [(0, 1)] * 2)[0]
        for factory in (partial(fedntd, beta=3.0), fedavg)
    )
    assert gap(one, other) < 1e-7


@TEACHERS
@pytest.mark.parametrize("sizes", [(1, 1, 0), pytest.param((2, 3, 4), marks=pytest.mark.thorough)])
def test_few_examples_and_a_class_that_nobody_holds(name: str, sizes: tuple[int, ...]):
    """Here the last class has no examples, and no client has all the others."""
    data = federation(sizes)
    y = jnp.where(data.train.y == CLASSES - 1, 0, data.train.y)
    cohorts = [range(len(sizes))] * 3
    state, (report, *_) = play(REGISTRY[name](logistic(5), FIT), data.train._replace(y=y), cohorts)
    assert bool(tree.is_finite(state))
    assert float(report.rejected.sum()) == 0


@TEACHERS
def test_large_logits_stay_finite(name: str):
    pool = federation().train
    state, reports = play(REGISTRY[name](logistic(5), FIT), pool._replace(x=1e4 * pool.x), COHORTS)
    assert bool(tree.is_finite(state))
    assert all(float(r.rejected.sum()) == 0 for r in reports)


@TEACHERS
def test_rows_without_a_label_count_for_nothing(name: str):
    data = federation((6, 9))
    y = data.train.y.at[jnp.array([0, 7, 8])].set(-1)
    fit = local_training(client_lr=0.1, batch_size=0, epochs=2)
    unlabelled = data.train._replace(y=y)
    poisoned = unlabelled._replace(x=data.train.x.at[jnp.array([0, 7, 8])].set(77.0))
    one, other = (
        play(REGISTRY[name](logistic(5), fit), pool, [(0, 1)])[0] for pool in (unlabelled, poisoned)
    )
    assert gap(one, other) == 0


def shifted(key: Key, x: jax.Array) -> jax.Array:
    return x + jax.random.normal(key, (1, x.shape[1]))


class Dropping(nnx.Module):
    """A network with dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.body, self.head = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.drop(jnp.tanh(self.body(x)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


def test_the_teacher_sees_the_same_view_in_evaluation_mode():
    task = from_nnx(Dropping, augment=shifted)
    model, received = task.init(KEY), task.init(jax.random.key(4))
    x, y = jax.random.normal(KEY, (8, 4)), jnp.arange(8, dtype=jnp.int32) % 3
    seen = []

    def fit(key: Key, start: Variables, data: Data, loss: Objective, round: Any) -> Fitted:
        batch = Batch(x, y, jnp.ones(8))
        seen.append(loss(model, batch, key)[0])
        return Fitted(start, seen[0], jnp.int32(1), jnp.float32(1))

    data = Data.all_of(x, y)
    fedntd(task, fit, beta=2.0, tau=3.0).client_update(KEY, received, (), data, None)
    logits, teacher = task.apply(model, x, KEY)[0], task.apply(received, task.augment(KEY, x))[0]
    term = losses.cross_entropy(logits, y) + 2 * losses.not_true(logits, teacher, y, 3.0)
    np.testing.assert_allclose(seen[0], term.mean(), rtol=1e-6)
    for other in (task.apply(received, x)[0], task.apply(received, x, KEY)[0]):
        term = losses.cross_entropy(logits, y) + 2 * losses.not_true(logits, other, y, 3.0)
        assert abs(seen[0] - term.mean()) > 1e-3


WRONG = [
    ("fedntd", {"beta": -1.0}, "beta is -1.0, but must be >= 0"),
    ("fedntd", {"tau": 0.0}, "tau is 0.0, but must be > 0"),
    ("fedntd", {"beta": float("nan")}, "beta is nan"),
    ("fedlsd", {"beta": 1.5}, r"beta is 1.5, but must be in \[0, 1\]"),
    ("fedlsd", {"tau": -1.0}, "tau is -1.0, but must be > 0"),
    ("fedlsd", {"classes": "some"}, "classes is 'some', but must be one of all, not_true"),
]


@pytest.mark.parametrize(("name", "given", "message"), WRONG)
def test_numbers_out_of_range(name: str, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](logistic(2), FIT, **given)


@TEACHERS
def test_a_model_that_is_no_classifier(name: str):
    data = federation((5, 5)).train
    with pytest.raises(TypeError, match="one label a row of logits"):
        check_algorithm(REGISTRY[name](logistic(5), FIT), data._replace(y=data.x))
