"""Golden vectors of servers that weigh, normalise or extrapolate what clients send."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, play, rounds, task_of
from test_golden import (
    EXACT,
    LOCAL_STEPS,
    QUADRATIC_COHORTS,
    SOFTMAX_COHORTS,
    TORCH,
    one_row_a_client,
    quadratics,
    repeated,
    softmax,
)
from vectors import golden, keys_of

from fedjax_kd.algorithms import feddyn, fedexp, fednova
from fedjax_kd.core import Key, Variables
from fedjax_kd.local import Fitted, local_training

__all__ = ["quadratics", "softmax"]  # fixtures

QUADRATIC_ALPHA = 0.1
SOFTMAX_ALPHA = 0.1
MOMENTUM = 0.9
SHARES = {"rtol": 1e-7, "atol": 1e-7}  # shares of clients are float32


def test_quadratic_feddyn(quadratics: Any):
    vectors, task, fit, pool = quadratics
    algorithm = feddyn(task, fit, alpha=QUADRATIC_ALPHA)
    for r, (state, _) in enumerate(rounds(algorithm, pool, QUADRATIC_COHORTS)):
        at, (duals,) = f"out_feddyn_gd{LOCAL_STEPS}_r{r}", state.clients
        np.testing.assert_allclose(state.server.base.model.params, vectors[f"{at}_x"], **SHARES)
        np.testing.assert_allclose(-QUADRATIC_ALPHA * duals, vectors[f"{at}_gk"], **SHARES)
        h = -QUADRATIC_ALPHA * state.server.dual
        np.testing.assert_allclose(h, vectors[f"{at}_h"], **SHARES)


def test_softmax_feddyn(softmax: Any):
    vectors, task, fit, pool = softmax
    algorithm = feddyn(task, fit, alpha=SOFTMAX_ALPHA)
    for r, (state, _) in enumerate(rounds(algorithm, pool, SOFTMAX_COHORTS)):
        at, (duals,) = f"out_dyn_r{r}", state.clients
        np.testing.assert_allclose(state.server.base.model.params, vectors[f"{at}_cloud"], **TORCH)
        np.testing.assert_allclose(duals, vectors[f"{at}_h"], **TORCH)


PREFIX = r"out_fednova_((?:official_)?)(vanilla|mom|prox)_x"


@pytest.mark.parametrize(("key", "parts"), keys_of("quadratic_rounds", PREFIX))
def test_quadratic_fednova(quadratics: Any, key: str, parts: tuple[str, str]):
    vectors, task, fit, pool = quadratics
    taus = vectors["in_taus"]

    def steps(client: Any, round: Any) -> Any:
        on_host = isinstance(client, np.ndarray)
        return taus[client] if on_host else jnp.asarray(taus, jnp.int32)[client]

    # As many local steps as the vectors say, each with all examples.
    fit = local_training(
        client_lr=float(vectors["in_lr"]),
        batch_size=int(pool.sizes.max()),
        steps=steps,
        client_momentum=MOMENTUM if parts[1] == "mom" else None,
    )
    mu = 0.5 if parts[1] == "prox" else 0.0
    ((state, _),) = rounds(fednova(task, fit, mu=mu), pool, [range(len(taus))])
    np.testing.assert_allclose(state.server.model.params, vectors[key], **EXACT)


def with_changes(deltas: Any) -> Any:
    """Local training that moves each client by its own change."""

    def fit(key: Key, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        moved = Variables(model.params + jnp.asarray(deltas)[data.client])
        return Fitted(moved, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    return fit


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_fedexp_step(variant: Any):
    vectors = golden("fedexp_stepsize")
    task = task_of(lambda key: Variables(jnp.asarray(vectors["in_w"], float)), lambda v, x, key: x)
    pool = repeated(one_row_a_client(len(vectors["in_n"])), vectors["in_n"])
    algorithm = fedexp(
        task,
        with_changes(vectors["in_delta"].astype(float)),
        eps=float(vectors["in_eps"]),
        variant=variant,
    )
    ((state, _),) = rounds(algorithm, pool, [range(len(vectors["in_n"]))])
    model = state.server.base.model.params
    np.testing.assert_allclose(model, vectors[f"out_{variant}_w"], rtol=1e-7)


def test_fedexp_of_equal_changes_is_fedavg_and_predicts_by_the_mean_of_two():
    vectors = golden("fedexp_stepsize")
    start, deltas = jnp.asarray(vectors["in_w"]), vectors["in_delta_same"]
    task = task_of(lambda key: Variables(start), lambda v, x, key=None: (v.params, v.stats))
    algorithm = fedexp(task, with_changes(deltas), eps=float(vectors["in_eps"]))
    pool = one_row_a_client(len(deltas))
    ((state, _),) = rounds(algorithm, pool, [range(len(deltas))])
    np.testing.assert_allclose(state.server.base.model.params, start + deltas[0], rtol=1e-5)
    found = algorithm.predict(state.server, (), jnp.zeros(1))
    np.testing.assert_allclose(found, start + 0.5 * deltas[0], rtol=1e-5)


def test_fednova_weighs_clients_of_many_steps_like_others():
    data, fit = federation((40, 4, 4)).train, local_training(client_lr=0.1, batch_size=4)
    method = fednova(logistic(), fit, weighting="uniform")
    one, _ = play(method, data, [(0, 1, 2)])
    other, _ = play(fednova(logistic(), fit), data, [(0, 1, 2)])
    assert gap(one.server.model, other.server.model) > 1e-3
    assert re.search(r"\|\|a_k\|\|", fednova.__doc__ or "")
