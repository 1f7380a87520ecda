"""MOON: the authors' numbers, what clients keep, and models without features."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, play, rounds, task_of
from flax import linen, nnx
from objectives import local_loss, table, wide
from vectors import golden, keys_of, number

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, moon
from fedjax_kd.algorithms.moon import Past
from fedjax_kd.core import Key, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training
from fedjax_kd.models.mlp import mlp
from fedjax_kd.models.resnet import resnet8
from fedjax_kd.task import Task, from_linen, from_nnx

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
MOON_FIT = {"lr": 0.1, "decay": 1e-5}
FIT = local_training(client_lr=0.1, batch_size=4)


def moon_task() -> Task:
    """The net that the vectors were made with; its projection head gives the features."""

    def both(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any, Any]:
        def dense(name: str, x: jax.Array) -> jax.Array:
            weight, bias = (model.params[f"{name}.{kind}"] for kind in ("weight", "bias"))
            return x @ weight.T + bias[None]

        z = dense("l2", jax.nn.relu(dense("l1", jax.nn.relu(dense("f", x)))))
        return z, dense("l3", z), model.stats

    task = task_of(lambda key: Variables(()), lambda *args: both(*args)[1:])
    return task._replace(features_and_logits=both, features=lambda *args: both(*args)[0])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("moon_loss", r"out_loss_mu(\w+)_tau(\w+)"))
def test_golden_moon(key: str, parts: tuple[str, str]):
    vectors, (mu, tau) = golden("moon_loss"), map(number, parts)
    net, received, previous = (
        {k.removeprefix(f"in_{name}_"): wide(v) for k, v in vectors.items() if f"in_{name}_" in k}
        for name in ("net", "glob", "prev")
    )
    make = partial(moon, moon_task(), mu=mu, tau=tau)
    at = make, Variables(received), net, wide(vectors["in_x"]), wide(vectors["in_y"])
    value, grads = local_loss(*at, client=Past(Variables(previous), jnp.bool_(True)))
    np.testing.assert_allclose(value, vectors[key], **TORCH)
    supervised, _ = local_loss(*at, client=Past(Variables(previous), jnp.bool_(False)))
    np.testing.assert_allclose(supervised, vectors["out_ce"], **TORCH)
    if key == "out_loss_mu5_tau0p5":
        return  # the file holds the other setting's steps in this one's place
    for name, weight in net.items():
        step = MOON_FIT["lr"] * (grads[name] + MOON_FIT["decay"] * weight)
        expected = vectors[f"{key.replace('loss', 'step')}_{name}"]
        np.testing.assert_allclose(weight - step, expected, **TORCH)


def test_moon_keeps_the_last_model_of_those_who_were_there():
    pool, fit = federation().train, local_training(client_lr=0.1, batch_size=0)
    ((state, _),) = rounds(moon(logistic(2), fit), pool, [(0, 4)])
    (past,) = state.clients
    np.testing.assert_array_equal(past.known, [True, False, False, False, True, False])
    local, _ = play(fedavg(logistic(2), fit), pool, [(4,)])
    kept = jax.tree.map(lambda a: a[4], past.model)
    assert gap(kept, local.server.model) < 1e-6


def test_newcomers_of_moon():
    """Clients who come late have nothing to contrast with, or a random model, as in the code."""
    pool, cohorts = federation().train, [(0, 4), (3, 5)]
    (plain, _), (skipped, _), (random, _) = (
        play(make(logistic(2), FIT), pool, cohorts)
        for make in (fedavg, partial(moon, mu=5.0), partial(moon, mu=5.0, newcomers="random"))
    )
    assert gap(plain.server, skipped.server) < 1e-6
    assert gap(plain.server, random.server) > 1e-4


WRONG = [
    ({"mu": -0.5}, "mu is -0.5, but must be >= 0"),
    ({"tau": 0}, "tau is 0, but must be > 0"),
    ({"newcomers": "drop"}, "newcomers is 'drop', but must be one of skip, random"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_options_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        moon(logistic(2), FIT, **given)


class Headless(nnx.Module):
    """A network without a method for its features."""

    def __init__(self, rngs: nnx.Rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


def test_moon_needs_features():
    with pytest.raises(TypeError, match="Headless has no method 'features', but this algorithm"):
        check_algorithm(moon(from_nnx(Headless), FIT), federation().train)
    with pytest.raises(ValueError, match="features and logits in one pass"):
        moon(table(3, 3), FIT)


def test_moon_with_features_of_zeros():
    """Nothing points anywhere: the contrast is constant, and its gradient zero instead of NaN."""
    task, pool = logistic(2), federation().train
    still = task._replace(init=lambda key: jax.tree.map(jnp.zeros_like, task.init(key)))
    one, other = (play(make(still, FIT), pool)[0] for make in (moon, fedavg))
    assert bool(tree.is_finite(one))
    assert gap(one.server, other.server) < 1e-6


class Lonely(Headless):
    """Its outputs do not go through its features."""

    def features(self, x: jax.Array) -> jax.Array:
        return x


def test_features_that_outputs_do_not_use():
    with pytest.raises(TypeError, match="calls `features` 0 times"):
        check_algorithm(moon(from_nnx(Lonely), FIT), federation().train)


class Dropping(linen.Module):
    """A Linen network with dropout and batch normalisation."""

    def setup(self):
        self.body, self.head = linen.Dense(6), linen.Dense(3)
        self.norm, self.drop = linen.BatchNorm(), linen.Dropout(0.5)

    def features(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.norm(self.body(x), use_running_average=not train)
        return self.drop(x, deterministic=not train)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.head(self.features(x, train))


X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
NETWORKS = {
    "nnx": lambda: from_nnx(resnet8((8, 8, 1), 3, norm="batch")),
    "linen": lambda: from_linen(Dropping(), X),
    "short": lambda: from_nnx(mlp((4,), 3), precision="bfloat16"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.thorough] * (n != "nnx")) for n in NETWORKS]
)
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(None, id="evaluation", marks=pytest.mark.thorough),
        pytest.param(jax.random.key(1), id="training"),
    ],
)
def test_features_and_outputs_of_one_pass_are_those_of_two(name: str, key: Key | None):
    task, x = NETWORKS[name](), jnp.asarray(X)
    x = jnp.broadcast_to(x[:, :1, None, None], (5, 8, 8, 1)) if name == "nnx" else x
    model = task.init(jax.random.key(0))
    features, logits, stats = task.features_and_logits(model, x, key)
    np.testing.assert_array_equal(features, task.features(model, x, key))
    expected, expected_stats = task.apply(model, x, key)
    np.testing.assert_array_equal(logits, expected)
    assert gap(stats, expected_stats) == 0
