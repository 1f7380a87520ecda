"""Local training against loops written out in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import SIZES, federation, gap, logistic, play

from fedjax_kd.algorithms import fedavg
from fedjax_kd.core import Data, Round, Variables
from fedjax_kd.local import Fitted, local_training, optimiser_named, voting
from fedjax_kd.losses.objectives import gradient, sum_of, whole_gradient

TASK, KEY = logistic(), jax.random.key(3)
MODEL = TASK.init(jax.random.key(0))
ROUND = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 10, None)


def client(size: int, rows: int = 200, spoilt: bool = False) -> Data:
    """A client with ``size`` rows in the middle of a pool; the rest of the pool may be NaN."""
    rng = np.random.default_rng(0)
    order = rng.permutation(rows).astype(np.int32)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    y = rng.integers(0, 3, rows).astype(np.int32)
    if spoilt:
        x[np.setdiff1d(np.arange(rows), order[20 : 20 + size])] = np.nan
    arrays = map(jnp.asarray, (x, y, order))
    return Data(*arrays, jnp.int32(20), jnp.int32(size))


def fitted(data: Data, number: int = 0, objective: Any = TASK.loss, **options: Any) -> Fitted:
    """Local training of the model in some round."""
    round = ROUND._replace(number=jnp.int32(number))
    fit = local_training(**options)
    return jax.jit(lambda data: fit(KEY, MODEL, data, objective, round))(data)


def whole(data: Data) -> Any:
    """All of a client as one batch."""
    size = int(data.size)
    return data.take(jnp.arange(size, dtype=jnp.int32), jnp.ones(size))


def numpy_gradient(w: np.ndarray, b: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
    batch = whole(data)
    x, y = np.asarray(batch.x, float), np.asarray(batch.y)
    odds = np.exp(x @ w + b)
    errors = (odds / odds.sum(1, keepdims=True) - np.eye(3)[y]) / len(y)
    return x.T @ errors, errors.sum(0)


@jax.jit
def in_pieces(data: Data) -> Any:
    return whole_gradient(TASK.loss, MODEL, data, KEY)


@pytest.mark.parametrize(
    "size", [1, 65, *(pytest.param(size, marks=pytest.mark.thorough) for size in (10, 64, 150))]
)
def test_whole_gradient_is_that_of_one_batch(size: int):
    data = client(size, spoilt=True)
    loss, _, grads = in_pieces(data)
    expected_loss, _, expected = gradient(TASK.loss, MODEL, whole(data), KEY)
    assert gap(grads, expected) < 1e-6
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)


def test_clipping_weight_decay_and_momentum_in_this_order():
    data, lr, decay, momentum, clip, steps = client(10), 0.3, 0.2, 0.9, 0.1, 4
    (layer,) = MODEL.params
    w, b = np.asarray(layer["w"], float), np.asarray(layer["b"], float)
    vw, vb = np.zeros_like(w), np.zeros_like(b)
    for _ in range(steps):
        gw, gb = numpy_gradient(w, b, data)
        norm = np.sqrt((gw**2).sum() + (gb**2).sum())
        assert norm > clip
        gw, gb = gw * clip / norm + decay * w, gb * clip / norm + decay * b
        vw, vb = momentum * vw + gw, momentum * vb + gb
        w, b = w - lr * vw, b - lr * vb
    got = fitted(
        data,
        client_lr=lr,
        batch_size=0,
        epochs=steps,
        weight_decay=decay,
        client_momentum=momentum,
        clip_norm=clip,
    )
    np.testing.assert_allclose(got.model.params[0]["w"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.model.params[0]["b"], b, rtol=1e-4, atol=1e-5)
    assert int(got.steps) == steps
    assert float(got.travel) == pytest.approx(steps * lr)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"last_batch": "partial"}, {0: 0, 1: 2, 8: 4, 10: 6}),
        ({"last_batch": "drop"}, {0: 0, 1: 2, 8: 4, 10: 4}),
        ({"last_batch": "wrap"}, {0: 0, 1: 1, 8: 4, 10: 5}),
        ({"steps": 3}, {0: 0, 1: 3, 10: 3}),
        ({"batch_size": 0}, {0: 0, 1: 2, 10: 2}),
    ],
)
def test_steps_and_padding(options: dict[str, Any], steps: dict[int, int]):
    """Rows that are not the client's are NaN: one of them in a batch would show."""
    options = {"batch_size": 4, "epochs": 2} | options
    fit = jax.jit(lambda data: local_training(**options)(KEY, MODEL, data, TASK.loss, ROUND))
    for size, count in steps.items():
        got = fit(client(size, spoilt=True))
        assert int(got.steps) == count
        assert np.isfinite(got.model.params[0]["w"]).all()
        assert (gap(got.model, MODEL) == 0) == (size == 0)


def test_filling_does_not_count():
    """Three examples in a batch of eight are three examples."""
    small, exact = (fitted(client(3), batch_size=b, client_lr=0.5) for b in (8, 0))
    assert gap(small.model, exact.model) < 1e-6
    assert float(small.loss) == pytest.approx(float(exact.loss), rel=1e-5)


def test_every_example_is_seen_once_in_an_epoch():
    """With the gradient ``-x`` and learning rate 1 the model becomes the sum of its examples."""
    zero = Variables(jnp.zeros(4))

    def minus_sum(model: Variables, batch: Any, key: Any) -> Any:
        return -(batch.mask[:, None] * batch.x).sum(0) @ model.params, model.stats

    data = client(10)
    fit = local_training(client_lr=1.0, batch_size=4, epochs=3)
    got = fit(KEY, zero, data, minus_sum, ROUND).model.params
    np.testing.assert_allclose(got, 3 * whole(data).x.sum(0), rtol=1e-5, atol=1e-5)


def test_learning_rate_over_rounds():
    def slope(model: Variables, batch: Any, key: Any) -> Any:
        return model.params[0]["b"].sum(), ()

    def moved(number: int, **options: Any) -> float:
        got = fitted(client(3), number, slope, batch_size=0, **options)
        step = float((MODEL.params[0]["b"] - got.model.params[0]["b"])[0])
        assert float(got.travel) == pytest.approx(step, rel=1e-5)
        return step

    assert moved(3, client_lr=0.4, lr_decay=0.5) == pytest.approx(0.05)
    assert moved(0, client_lr=0.4, lr_decay=0.5) == pytest.approx(0.4)
    assert moved(4, client_lr=lambda n: 0.1 / (1 + n.astype(float))) == pytest.approx(0.02)


def test_other_optimisers_start_anew():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        adam, named = (
            fitted(client(10), client_opt=o, client_lr=0.01, batch_size=0)
            for o in (optimiser_named("adam"), "adam")
        )
    assert gap(adam.model, named.model) == 0
    step = np.asarray(adam.model.params[0]["w"] - MODEL.params[0]["w"])
    np.testing.assert_allclose(np.abs(step), 0.01, rtol=1e-3)  # Adam's first step is lr * sign


def test_statistics_and_keys_reach_the_objective():
    """Stats are passed on from step to step; every step has a key of its own."""
    start = Variables(jnp.zeros(()), {"sum": jnp.zeros(()), "last": jnp.zeros(())})

    def objective(model: Variables, batch: Any, key: Any) -> Any:
        drawn = jax.random.uniform(key)
        return model.params * 0.0, {"sum": model.stats["sum"] + drawn, "last": drawn}

    got = local_training(batch_size=4, epochs=2)(KEY, start, client(8), objective, ROUND)
    stats = got.model.stats
    assert 0 < float(stats["last"]) < 1
    assert float(stats["sum"]) != pytest.approx(4 * float(stats["last"]))


def test_votes():
    assert float(voting("examples")(client(7))) == 7
    assert float(voting("uniform")(client(7))) == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: local_training(batch_size=-1), "batch_size is -1, but must be >= 0"),
        (lambda: local_training(epochs=0), "epochs is 0"),
        (lambda: local_training(steps=0), "steps is 0"),
        (lambda: local_training(last_batch="keep"), "last_batch is 'keep'"),
        (lambda: local_training(client_opt="adm"), "no optimiser 'adm'; near it: .*adam"),
        (lambda: voting("size"), "weighting is 'size', but must be one of examples, uniform"),
    ],
)
def test_bad_arguments(make: Any, match: str):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_sum_of_terms_has_their_value_and_gradient():
    params, each = {"w": jnp.array([1.0, -2.0]), "b": jnp.float32(0.5)}, jnp.array([0.5, 1.0, 3.0])

    def term(params: Any, one: jax.Array) -> jax.Array:
        return jnp.square(params["w"] * one + params["b"]).sum()

    def plainly(params: Any) -> jax.Array:
        return sum(jnp.exp(params["b"]) * term(params, one) for one in each)

    def at_once(params: Any) -> jax.Array:
        return jnp.exp(params["b"]) * sum_of(term, params, each)

    one, other = (jax.jit(jax.value_and_grad(f))(params) for f in (plainly, at_once))
    assert gap(one, other) < 1e-4


def test_one_client_is_local_sgd_by_hand():
    """FedAvg of one client, two whole-batch steps, against NumPy."""
    data, lr = federation(), 0.2
    client = int(np.argmax(SIZES))
    fit = local_training(client_lr=lr, batch_size=0, epochs=2)
    state, _ = play(fedavg(logistic(), fit), data.train, [(client,)])
    rows = np.asarray(data.parts[client])
    x, y = np.asarray(data.train.x, float)[rows], np.asarray(data.train.y)[rows]
    (layer,) = logistic().init(jax.random.key(0)).params
    w, b = (np.asarray(layer[name], float) for name in "wb")
    for _ in range(2):
        odds = np.exp(x @ w + b)
        errors = odds / odds.sum(1, keepdims=True) - np.eye(3)[y]
        w, b = w - lr * x.T @ errors / len(y), b - lr * errors.mean(0)
    (layer,) = state.server.model.params
    np.testing.assert_allclose(layer["w"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer["b"], b, rtol=1e-5, atol=1e-6)
