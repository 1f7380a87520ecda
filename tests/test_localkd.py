"""LocalKD: every loss by its name against the same loss by hand, and models that do not have it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, federation, gap, logistic, play
from flax import nnx
from objectives import local_loss

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import localkd
from fedjax_kd.components.local_distillation import OUTPUT_LOSSES, KdLoss
from fedjax_kd.core import Variables
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)
LABELS = jnp.array([0, 2, 1, 0], jnp.int32)
TAU, BETA = 2.0, 0.3


class Images(nnx.Module):
    """Two convolutions, of which the second is the last block, and a head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 5, (3, 3), rngs=rngs)
        self.second = nnx.Conv(5, 6, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def last_block(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.second(x))

    def stem(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.first(x))

    def features(self, x: jax.Array) -> jax.Array:
        return self.last_block(self.stem(x)).mean((1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class Sequences(nnx.Module):
    """One class a token."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.head = nnx.Linear(8, 5, rngs=rngs), nnx.Linear(5, CLASSES, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.first(x[..., 0]))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
Of = Callable[[nnx.Module], jax.Array]


def maps(module: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last block's input and output."""
    before = module.stem(x)
    return before, module.last_block(before)


def of_features(loss: Callable[..., jax.Array]) -> Any:
    return lambda student, teacher: loss(student.features(X), teacher.features(X))


def of_maps(loss: Callable[..., jax.Array], **options: Any) -> Any:
    return lambda student, teacher: loss(maps(student, X), maps(teacher, X), **options)


def kl(student: Any, teacher: Any) -> jax.Array:
    return losses.kl_divergence(student(X), teacher(X), TAU)


def rkd(s: jax.Array, t: jax.Array) -> jax.Array:
    return losses.relational_distances(s, t) + 2 * losses.relational_angles(s, t)


def attention(s: Any, t: Any, **options: Any) -> jax.Array:
    return sum(losses.attention_transfer(*pair, **options) for pair in zip(s, t, strict=True))


def tokens(s: jax.Array, t: jax.Array) -> jax.Array:
    return losses.kl_divergence(losses.token_relations(s, s), losses.token_relations(t, t))


BY_HAND: dict[str, Any] = {
    "kl": kl,
    "mse": lambda student, teacher: losses.logit_mse(student(X), teacher(X)),
    "features": of_features(losses.feature_mse),
    "cosine": of_features(losses.feature_cosine),
    "similarity": of_features(losses.similarity_preserving),
    "rkd": of_features(rkd),
    "tokens": of_features(tokens),
    "attention": of_maps(attention),
    "frskd": lambda s, t: kl(s, t) + 50 * of_maps(attention, measure="mean")(s, t),
    "fsp": of_maps(losses.flow_matching),
    "svd": of_maps(losses.singular_distillation),
    "eid": of_maps(losses.singular_distillation, decomposition="eid"),
}


@cache
def given(kd: str) -> tuple[Task, Any, Variables, Variables, jax.Array]:
    """A task, its module, a student and a teacher, and labels."""
    build = Sequences if kd == "tokens" else Images
    task = from_nnx(build, example_x=X)
    labels = jnp.broadcast_to(LABELS[:, None], X.shape[:2]) if kd == "tokens" else LABELS
    return task, build, *map(task.init, jax.random.split(jax.random.key(0))), labels


def test_every_name_is_tested():
    assert set(BY_HAND) == set(get_args(KdLoss)) == set(OUTPUT_LOSSES)


FEW = ("kl", "rkd", "fsp", "svd")


@pytest.mark.parametrize(
    "kd", [pytest.param(n, marks=[pytest.mark.thorough] * (n not in FEW)) for n in BY_HAND]
)
def test_the_objective_is_the_loss_of_that_name(kd: str):
    """Value and gradient, on a batch that has rows of filling."""
    task, build, student, teacher, labels = given(kd)
    graph = nnx.graphdef(build(nnx.Rngs(0)))

    @jax.jit
    @jax.value_and_grad
    def expected(params: Any) -> jax.Array:
        own, fixed = (nnx.merge(graph, p) for p in (params, teacher.params))
        supervised = losses.cross_entropy(own(X), labels).mean()
        return supervised + BETA * BY_HAND[kd](own, fixed).mean()

    make = partial(localkd, task, kd=kd, beta=BETA, tau=TAU)
    value, grads = local_loss(make, teacher, student.params, X, labels)
    by_hand, slope = expected(student.params)
    np.testing.assert_allclose(value, by_hand, rtol=1e-5)
    size = float(jnp.sqrt(tree.sq_norm(slope)))
    assert gap(grads, slope) < 1e-5 * size
    plain, _ = local_loss(
        partial(localkd, task, kd=kd, beta=0.0), teacher, student.params, X, labels
    )
    assert value > plain, "teacher and student differ"


@pytest.mark.parametrize("kd", ["mse", "cosine", "svd", "eid"])
def test_dense_networks_learn_beside_their_teacher(kd: str):
    cohorts = [(0, 4, 2), (3, 4, 5)] * 4
    pool, test = federation().train, federation().test
    task = logistic(hidden=3)
    state, reports = play(localkd(task, FIT, kd=kd), pool, cohorts)
    logits = task.apply(state.server.model, test.x)[0]
    assert float((logits.argmax(-1) == test.y).mean()) > 0.7
    assert not any(float(report.rejected.sum()) for report in reports)


@pytest.mark.parametrize("kd", ["attention", "frskd", "fsp", "rkd"])
def test_networks_on_images_learn_beside_their_teacher(kd: str):
    task, *_ = given(kd)
    fit = local_training(client_lr=0.2, batch_size=4, epochs=5)
    bright = (X[:, :, :, :] + LABELS.astype(jnp.float32)[:, None, None, None]) / 2
    pool = federation((4,)).train._replace(x=bright, y=LABELS)
    state, _ = play(localkd(task, fit, kd=kd, beta=0.01), pool, [(0,)] * 12)
    losses_of = [
        losses.cross_entropy(task.apply(model, bright)[0], LABELS).mean()
        for model in (task.init(jax.random.key(0)), state.server.model)
    ]
    assert losses_of[1] < 0.7 * losses_of[0]


def test_names_that_no_loss_has():
    with pytest.raises(ValueError, match="kd is 'logits', but must be one of kl, mse, features"):
        localkd(logistic(), FIT, kd="logits")
    with pytest.raises(ValueError, match=r"beta is -1\.0, but must be >= 0"):
        localkd(logistic(), FIT, beta=-1.0)
    with pytest.raises(ValueError, match="tau is 0, but must be > 0"):
        localkd(logistic(), FIT, tau=0)


@pytest.mark.parametrize("kd", ["attention", "frskd", "fsp", "svd", "eid"])
def test_models_without_a_last_block(kd: str):
    with pytest.raises(ValueError, match=f"input and output kd '{kd}' compares: give the module"):
        localkd(logistic(), FIT, kd=kd)


@pytest.mark.parametrize("kd", ["attention", "frskd", "fsp"])
def test_blocks_that_make_no_maps(kd: str):
    with pytest.raises(ValueError, match=r"input and output of the last block .* \[1, 4\] and"):
        localkd(logistic(hidden=2), FIT, kd=kd)
    unknown = logistic(hidden=2)._replace(input_types=None)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        localkd(unknown, FIT, kd=kd)


def test_models_that_do_not_give_features():
    without = logistic(hidden=2)._replace(features_and_logits=None)
    with pytest.raises(ValueError, match="in one pass, as kd 'rkd' needs them"):
        localkd(without, FIT, kd="rkd")
    with pytest.raises(ValueError, match=r"takes arrays \[B, T, D\], but the features of this"):
        localkd(logistic(hidden=2), FIT, kd="tokens")
    lstm = MODELS["char_lstm"]((6,), 9)
    task = from_nnx(lstm, example_x=jnp.zeros((1, 6), jnp.int32))
    assert localkd(task, FIT, kd="tokens").client_update is not None
