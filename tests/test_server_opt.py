"""Server optimisers step by step in NumPy, and their variants."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_kd.components import server_opt

DELTAS = np.array([[0.3, -0.2, 0.0], [0.1, 0.4, 1e-4], [-0.5, 0.1, 2.0]], np.float32)
X0 = np.array([1.0, -1.0, 0.5], np.float32)


def walk(opt: optax.GradientTransformation, deltas: np.ndarray = DELTAS) -> tuple[Any, Any]:
    """The parameters after all pseudo-gradients, and the optimiser's state."""
    x, state = {"w": jnp.asarray(X0)}, opt.init({"w": jnp.asarray(X0)})
    for delta in deltas:
        step, state = opt.update({"w": -jnp.asarray(delta)}, state, x)
        x = optax.apply_updates(x, step)
    return np.asarray(x["w"]), state


SECOND = {
    "fedadagrad": lambda v, d: v + d**2,
    "fedadam": lambda v, d: 0.9 * v + 0.1 * d**2,
    "fedyogi": lambda v, d: v - 0.1 * d**2 * np.sign(v - d**2),
}


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("initial", [None, 0.2])
def test_paper_arithmetic(name: str, initial: float | None):
    eta, beta_1, tau = 0.3, 0.7, 0.05
    x, m = X0.astype(float), np.zeros(3)
    v = np.full(3, tau**2 if initial is None else initial)
    for delta in DELTAS.astype(float):
        m, v = beta_1 * m + (1 - beta_1) * delta, SECOND[name](v, delta)
        x = x + eta * m / (np.sqrt(v) + tau)
    beta_2 = {} if name == "fedadagrad" else {"beta_2": 0.9}
    opt = getattr(server_opt, name)(eta, beta_1, tau=tau, initial=initial, **beta_2)
    got, state = walk(opt)
    np.testing.assert_allclose(got, x, rtol=1e-5)
    np.testing.assert_allclose(state.v["w"], v, rtol=1e-5)
    assert int(state.steps) == len(DELTAS)


def test_fedavgm_is_heavy_ball():
    x, v = X0.astype(float), np.zeros(3)
    for delta in DELTAS:
        v = 0.9 * v + delta
        x = x + 0.5 * v
    np.testing.assert_allclose(walk(server_opt.fedavgm(0.5, 0.9))[0], x, rtol=1e-5)


def test_tff_adam_is_adam():
    """But for where epsilon stands: negligible here, both without it."""
    options = {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-12, "variant": "tff"}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        expected, _ = walk(optax.adam(0.1, 0.9, 0.99, eps=1e-12), DELTAS[1:])
    got, _ = walk(server_opt.fedadam(0.1, **options), DELTAS[1:])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("name", SECOND)
def test_half_precision_stays(name: str):
    opt = getattr(server_opt, name)()
    x = {"w": jnp.ones(3, jnp.bfloat16)}
    step, state = opt.update({"w": jnp.ones(3, jnp.bfloat16)}, opt.init(x), x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((step, state.m, state.v))} == {"bfloat16"}


@pytest.mark.parametrize("name", SECOND)
def test_unknown_variant(name: str):
    with pytest.raises(ValueError, match="variant is 'keras', but must be one of paper, tff"):
        getattr(server_opt, name)(variant="keras")
