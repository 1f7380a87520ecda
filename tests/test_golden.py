"""Golden vectors: inputs and outputs of the papers' formulas, or of the authors' own code.

Every number that is compared comes from ``tests/golden/NAME.npz``; hyper-parameters are read from
the names of its keys. Only what a set of vectors was made with, and does not say, is written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import lcm
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import rounds, task_of
from vectors import golden, keys_of, number

from fedjax_kd.algorithms import REGISTRY, fedavg, fedavgm, fedprox, scaffold
from fedjax_kd.components import server_opt
from fedjax_kd.core import Batch, Key, Pool, State, Variables
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.task import Task

PAPER_BETA_2 = 0.99
TFF = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.999}
LOCAL_STEPS = 5
QUADRATIC_COHORTS = ((0, 1, 2), (0, 2), (0, 1, 2))
SOFTMAX_COHORTS = ((0, 1), (1, 2))
SOFTMAX_FIT = {"client_lr": 0.1, "weight_decay": 1e-3, "clip_norm": 10.0}
TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def stepped(
    opt: optax.GradientTransformation, x0: np.ndarray, deltas: np.ndarray
) -> Iterator[tuple[jax.Array, Any]]:
    """The parameters and the optimiser's state after each pseudo-gradient."""
    x, state = jnp.asarray(x0), opt.init(jnp.asarray(x0))
    for delta in deltas:
        step, state = opt.update(-jnp.asarray(delta), state, x)
        x = optax.apply_updates(x, step)
        yield x, state


PAPER_KEY = r"out_x_(\w+?)_b1(\w+)_tau(\w+)_eta(\w+)"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("fedopt_paper", PAPER_KEY))
def test_fedopt_paper(key: str, parts: tuple[str, ...]):
    vectors, (rule, *encoded) = golden("fedopt_paper"), parts
    beta_1, tau, eta = map(number, encoded)
    second = {} if rule == "adagrad" else {"beta_2": PAPER_BETA_2}
    deltas = jnp.asarray(vectors["in_delta"])

    def fit(key: Key, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        moved = Variables(model.params + deltas[round.number])
        return Fitted(moved, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    task = task_of(lambda key: Variables(jnp.asarray(vectors["in_x0"])), lambda v, x, key: (x, ()))
    algorithm = REGISTRY[f"fed{rule}"](task, fit, eta=eta, beta_1=beta_1, tau=tau, **second)
    cohorts = [[0]] * len(deltas)
    servers = [state.server for state, _ in rounds(algorithm, one_row_a_client(1), cohorts)]
    np.testing.assert_allclose([s.model.params for s in servers], vectors[key], **EXACT)
    expected_v = vectors[key.replace("out_x", "out_v")]
    np.testing.assert_allclose([s.opt.v for s in servers], expected_v, **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("key", "parts"), keys_of("fedopt_tff", r"out_x_([a-z]+)_eps(\w+?)(?:_init(\w+))?")
)
def test_fedopt_tff(key: str, parts: tuple[str, ...]):
    vectors, (rule, eps, init) = golden("fedopt_tff"), parts
    options = {name: v for name, v in TFF.items() if rule != "adagrad" or name == "eta"}
    initial = None if init is None else number(init)
    make = getattr(server_opt, f"fed{rule}")
    opt = make(**options, tau=number(eps), variant="tff", initial=initial)
    xs = [x for x, _ in stepped(opt, vectors["in_x0"], vectors["in_delta"])]
    np.testing.assert_allclose(xs, vectors[key], **EXACT)


def one_row_a_client(clients: int, x: Any = None) -> Pool:
    """Each client owns its own row of the pool, once."""
    numbers = jnp.arange(clients, dtype=jnp.int32)
    x = numbers if x is None else x
    return Pool(x, numbers, numbers, numbers, jnp.ones(clients, jnp.int32))


def repeated(pool: Pool, shares: np.ndarray) -> Pool:
    """The same pool, with each client's row as often as its share of all votes demands."""
    parts = [Fraction(float(p)).limit_denominator(1000) for p in shares]
    sizes = np.array([int(p * lcm(*(q.denominator for q in parts))) for p in parts], np.int32)
    rows = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.cumsum(sizes) - sizes
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    return Pool(pool.x, jnp.asarray(rows), *owned)


def quadratic(x0: np.ndarray) -> Task:
    """``f_k(w) = w A_k w / 2 - b_k w``; a client's only example is ``(A_k, b_k)``."""

    def loss(model: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Any]:
        w, (a, b) = model.params, batch.x
        values = 0.5 * jnp.einsum("i,nij,j->n", w, a, w) - b @ w
        mask = batch.mask.astype(values.dtype)
        return (values * mask).sum() / mask.sum(), model.stats

    base = task_of(lambda key: Variables(jnp.asarray(x0)), lambda v, x, key=None: (x, v.stats))
    return base._replace(loss=loss)


@pytest.fixture
def quadratics(float64: None) -> tuple[dict[str, np.ndarray], Task, Any, Pool]:
    """The vectors, the task, local training, and the clients' data."""
    vectors = golden("quadratic_rounds")
    x = (jnp.asarray(vectors["in_A"]), jnp.asarray(vectors["in_b"]))
    pool = repeated(one_row_a_client(len(vectors["in_p"]), x), vectors["in_p"])
    fit = local_training(client_lr=float(vectors["in_lr"]), batch_size=0, epochs=LOCAL_STEPS)
    return vectors, quadratic(vectors["in_x0"]), fit, pool


def test_quadratic_fedavg(quadratics: Any):
    vectors, task, fit, pool = quadratics
    algorithm, clients = fedavg(task, fit), range(len(vectors["in_p"]))
    ((state, _),) = rounds(algorithm, pool, [clients])
    np.testing.assert_allclose(state.server.model.params, vectors["out_fedavg"], **EXACT)
    for k, expected in enumerate(vectors["out_fedavg_locals"]):
        ((state, _),) = rounds(algorithm, pool, [[k]])
        np.testing.assert_allclose(state.server.model.params, expected, **EXACT)


@pytest.mark.parametrize(("key", "parts"), keys_of("quadratic_rounds", r"out_fedprox_mu(\w+)"))
def test_quadratic_fedprox(quadratics: Any, key: str, parts: tuple[str]):
    vectors, task, fit, pool = quadratics
    algorithm = fedprox(task, fit, mu=number(*parts))
    ((state, _),) = rounds(algorithm, pool, [range(len(vectors["in_p"]))])
    np.testing.assert_allclose(state.server.model.params, vectors[key], **EXACT)


@pytest.mark.parametrize(
    ("key", "parts"), keys_of("quadratic_rounds", r"out_fedavgm_beta(\w+)_(\d+)rounds")
)
def test_quadratic_fedavgm(quadratics: Any, key: str, parts: tuple[str, str]):
    vectors, task, fit, pool = quadratics
    algorithm = fedavgm(task, fit, beta=number(parts[0]))
    cohorts = [range(len(vectors["in_p"]))] * int(parts[1])
    models = [state.server.model.params for state, _ in rounds(algorithm, pool, cohorts)]
    np.testing.assert_allclose(models, vectors[key], **EXACT)


def test_quadratic_scaffold(quadratics: Any):
    vectors, task, fit, pool = quadratics
    played = rounds(scaffold(task, fit), pool, QUADRATIC_COHORTS)
    for r, (state, _) in enumerate(played):
        server, (controls,), _ = state
        np.testing.assert_allclose(
            server.base.model.params, vectors[f"out_scaffold_r{r}_x"], **EXACT
        )
        np.testing.assert_allclose(server.control, vectors[f"out_scaffold_r{r}_c"], **EXACT)
        np.testing.assert_allclose(controls, vectors[f"out_scaffold_r{r}_ck"], **EXACT)


def test_quadratic_scaffold_option_i(quadratics: Any):
    vectors, task, fit, pool = quadratics
    cohorts = [range(len(vectors["in_p"]))]
    (((_, (controls,), _), _),) = rounds(scaffold(task, fit, option="I"), pool, cohorts)
    np.testing.assert_allclose(controls, vectors["out_scaffold_optI_ck"], **EXACT)


def softmax_task(w0: np.ndarray, inputs: int) -> Task:
    """Softmax regression whose parameters are one vector: rows of the weights, then the biases."""

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        classes = len(w0) // (inputs + 1)
        weights = model.params[: classes * inputs].reshape(classes, inputs)
        return x @ weights.T + model.params[classes * inputs :][None], model.stats

    return task_of(lambda key: Variables(jnp.asarray(w0)), apply)


@pytest.fixture
def softmax() -> tuple[dict[str, np.ndarray], Task, Any, Pool]:
    """The vectors, the task, local training, and the clients' data."""
    vectors = golden("feddyn_scaffold_softmax")
    clients = range(sum(key.startswith("in_y") for key in vectors))
    xs, ys = ([vectors[f"in_{name}{k}"] for k in clients] for name in "xy")
    sizes = np.array([len(y) for y in ys], np.int32)
    rows, starts = np.arange(sizes.sum(), dtype=np.int32), (np.cumsum(sizes) - sizes)
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    labels = np.concatenate(ys)[:, 0].astype(np.int32)
    pool = Pool(jnp.asarray(np.concatenate(xs)), jnp.asarray(labels), *owned)
    fit = local_training(**SOFTMAX_FIT, batch_size=0, epochs=LOCAL_STEPS)
    return vectors, softmax_task(vectors["in_w0"], xs[0].shape[1]), fit, pool


def after(algorithm: Any, pool: Pool, client: int, state: State | None = None) -> State:
    """The state after a round with one client, whose model is then the server's."""
    ((state, _),) = rounds(algorithm, pool, [[client]], state=state)
    return state


def test_softmax_local_training(softmax: Any):
    vectors, task, fit, pool = softmax
    local = after(fedavg(task, fit), pool, 0).server.model.params
    np.testing.assert_allclose(local, vectors["out_sgd_c0"], **TORCH)


@pytest.mark.parametrize(
    ("key", "parts"), keys_of("feddyn_scaffold_softmax", r"out_prox_c(\d)_mu(\w+)")
)
def test_softmax_fedprox(softmax: Any, key: str, parts: tuple[str, str]):
    vectors, task, fit, pool = softmax
    algorithm = fedprox(task, fit, mu=number(parts[1]))
    local = after(algorithm, pool, int(parts[0])).server.model.params
    np.testing.assert_allclose(local, vectors[key], **TORCH)


def test_softmax_scaffold(softmax: Any):
    vectors, task, fit, pool = softmax
    algorithm, before = scaffold(task, fit), None
    played = rounds(algorithm, pool, SOFTMAX_COHORTS)
    for r, ((state, _), cohort) in enumerate(zip(played, SOFTMAX_COHORTS, strict=True)):
        at = f"out_scaf_r{r}"
        server, (controls,), _ = state
        np.testing.assert_allclose(server.base.model.params, vectors[f"{at}_global"], **TORCH)
        np.testing.assert_allclose(server.control, vectors[f"{at}_cserver"], **TORCH)
        for k in cohort:
            local = after(algorithm, pool, k, before).server.base.model.params
            np.testing.assert_allclose(local, vectors[f"{at}_c{k}"], **TORCH)
            np.testing.assert_allclose(controls[k], vectors[f"{at}_ck{k}"], **TORCH)
        before = state
