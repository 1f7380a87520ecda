"""Losses that know which classes a client holds: absent ones, rare ones, and bad options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, federation, gap, logistic, play

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import REGISTRY, fedavg, fedlc, fedrs
from fedjax_kd.local import local_training

FIT = local_training(client_lr=0.1, batch_size=4)
ADJUSTMENTS = {
    "margins": losses.class_margins,
    "priors": losses.class_priors,
    "restrictions": losses.class_restrictions,
}


@pytest.mark.parametrize("make", ADJUSTMENTS.values(), ids=ADJUSTMENTS)
@pytest.mark.parametrize("counts", [[4.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_values_and_gradients_are_finite_whatever_is_absent(
    make: Callable[..., losses.Adjustment], counts: list[float], dtype: Any
):
    y = jnp.array([2, 2, 1] * 20)  # even of a class that the client is not known to hold
    logits = 1e4 * jax.random.normal(jax.random.key(0), (len(y), CLASSES)).astype(dtype)

    def loss(logits: jax.Array) -> jax.Array:
        adjusted = losses.adjusted(logits, make(jnp.array(counts)))
        assert adjusted.dtype == dtype
        return losses.cross_entropy(adjusted.astype(jnp.float32), y).mean()

    value, grads = jax.value_and_grad(loss)(logits)
    assert bool(jnp.isfinite(value))
    assert bool(tree.is_finite(grads))


@pytest.mark.parametrize("method", [fedlc, partial(fedrs, alpha=0.0)], ids=["fedlc", "fedrs"])
def test_absent_classes_of_the_only_client_keep_their_weights(method: Any):
    data, task = federation((6,)).train, logistic()
    held = data._replace(y=jnp.minimum(data.y, CLASSES - 2))
    state, _ = play(method(task, FIT), held, [(0,)] * 2)
    start = task.init(jax.random.key(0))
    change = tree.sub(state.server.model, start).params[0]
    assert gap(change["w"][:, -1], jnp.zeros(4)) == 0
    assert gap(change["w"][:, 0], jnp.zeros(4)) > 1e-3
    plain, _ = play(fedavg(task, FIT), held, [(0,)] * 2)
    assert gap(tree.sub(plain.server.model, start).params[0]["w"][:, -1], jnp.zeros(4)) > 1e-3


def test_one_example_has_nothing_to_learn_where_all_other_classes_are_left_out():
    task, pool = logistic(), federation((1,)).train
    state, (report,) = play(fedlc(task, FIT), pool, [(0,)])
    assert gap(state.server.model, task.init(jax.random.key(0))) < 1e-7
    assert float(report.used.sum()) == 1


def test_margins_are_of_a_clients_own_counts():
    """Two clients of one class each, who together hold both, still leave out the other's."""
    data = federation((6, 6)).train
    y = jnp.asarray(np.repeat([0, 1], 6).astype(np.int32))
    state, _ = play(fedlc(logistic(), FIT), data._replace(y=y), [(0, 1)])
    assert gap(state.server.model, logistic().init(jax.random.key(0))) < 1e-7


def test_labels_of_positions_and_unknown_ones():
    by = losses.class_priors(jnp.array([2.0, 1.0, 0.0]))
    logits = jnp.zeros((2, 5, CLASSES))
    seen = losses.cross_entropy(losses.adjusted(logits, by), jnp.full((2, 5), -1))
    np.testing.assert_array_equal(seen, 0)
    known = losses.cross_entropy(losses.adjusted(logits, by), jnp.zeros((2, 5), jnp.int32))
    np.testing.assert_allclose(known, np.log(3 / 2), rtol=1e-6)


WRONG = [
    ("fedlc", {"tau": -1.0}, "tau is -1.0, but must be >= 0"),
    ("fedrs", {"alpha": 1.5}, r"alpha is 1.5, but must be in \[0, 1\]"),
    ("fedrs", {"variant": "loss"}, "variant is 'loss', but must be one of paper, code"),
    ("fedlc", {"objective": None}, "fedlc has no option 'objective'"),
]


@pytest.mark.parametrize(("name", "given", "message"), WRONG)
def test_bad_options_are_said(name: str, given: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        REGISTRY[name](logistic(hidden=2), FIT, **given)
