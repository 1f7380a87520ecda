"""Per-FedAvg: meta steps against the vectors, and the step before evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, play, task_of
from vectors import golden

from fedjax_kd.algorithms._maml import maml_objective
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.algorithms.perfedavg import perfedavg
from fedjax_kd.core import Batch, Variables
from fedjax_kd.local import local_training
from fedjax_kd.losses.objectives import gradient

ALPHA, BETA, DELTA = 0.1, 0.05, 1e-3  # of the vectors
FIT = local_training(client_lr=0.1, batch_size=4)


def batch(number: int, dtype: Any) -> Batch:
    x, y = (golden("perfedavg")[name][number] for name in ("in_x", "in_y"))
    return Batch(jnp.asarray(x, dtype), jnp.asarray(y, jnp.int32), jnp.ones(len(y), dtype))


def stepped(params: Any, batches: Any, hessian: Any) -> Any:
    """The parameters after one meta step on the batches D, D', D''."""
    task = task_of(
        lambda key: Variables(params),
        lambda model, x, key=None: (x @ model.params["W"].T + model.params["b"][None], ()),
    )
    first, query, third = batches
    objective = maml_objective(task.loss, lambda *_: (first, third), ALPHA, DELTA, hessian)
    _, _, step = gradient(objective, Variables(params), query, jax.random.key(0))
    return jax.tree.map(lambda w, g: w - BETA * g, params, step)


@pytest.mark.parametrize("hessian", ["FO", "HF", "exact"])
def test_golden_meta_step(hessian: str):
    with jax.enable_x64(True):
        vectors = golden("perfedavg")
        params = {name: jnp.asarray(vectors[f"in_{name}"], jnp.float64) for name in "Wb"}
        after = stepped(params, [batch(i, jnp.float64) for i in range(3)], hessian)
        flat = np.concatenate([np.ravel(after["W"]), after["b"]])
        np.testing.assert_allclose(flat, vectors[f"out_meta_{hessian.lower()}"], rtol=1e-9)


def test_golden_first_order_code():
    vectors = golden("perfedavg")
    params = {name: jnp.asarray(vectors[f"in_{name}"]) for name in "Wb"}
    for first in (0, 2):
        pair = [batch(first, jnp.float32), batch(first + 1, jnp.float32)]
        params = stepped(params, [*pair, pair[0]], "FO")
    for name in "Wb":
        np.testing.assert_allclose(params[name], vectors[f"out_fo_{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "hessian", ["FO", *(pytest.param(h, marks=pytest.mark.thorough) for h in ("HF", "exact"))]
)
def test_without_alpha_it_is_fedavg(hessian: Any):
    pool, fit = federation().train, local_training(client_lr=0.1, batch_size=0, epochs=3)
    one, _ = play(perfedavg(logistic(), fit, alpha=0.0, hessian=hessian), pool)
    other, _ = play(fedavg(logistic(), fit, weighting="uniform"), pool)
    assert gap(one.server.model, other.server.model) < 1e-6


def test_a_client_adapts_by_one_step_on_its_examples():
    algorithm, pool, task = perfedavg(logistic(), FIT, alpha=0.5), federation().train, logistic()
    server = algorithm.server_init(jax.random.key(0))
    data, model = pool.of(jnp.int32(4)), server.model
    every = data.take(jnp.arange(data.size), jnp.ones(int(data.size)))
    grads = jax.grad(lambda params: task.loss(Variables(params), every, None)[0])(model.params)
    expected = jax.tree.map(lambda w, g: w - 0.5 * g, model.params, grads)
    own = algorithm.personalise(jax.random.key(1), server, (), data)
    assert gap(own.params, expected) < 1e-6
    assert gap(algorithm.predict(server, own, every.x), algorithm.predict(server, (), every.x)) > 0
    empty = algorithm.personalise(jax.random.key(1), server, (), pool.of(jnp.int32(1)))
    assert gap(empty, model) == 0


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="hessian is 'none'"):
        perfedavg(logistic(), FIT, hessian="none")
    with pytest.raises(ValueError, match="alpha is -1"):
        perfedavg(logistic(), FIT, alpha=-1.0)
    with pytest.raises(ValueError, match="delta is 0"):
        perfedavg(logistic(), FIT, delta=0.0)
