"""Golden vectors of the wrappers: gradient dropping, central privacy, robust rules, server EMA."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, rounds, task_of
from test_golden import EXACT, one_row_a_client
from vectors import golden, keys_of, number

from fedjax_kd.algorithms import fedavg
from fedjax_kd.components.robust_rules import krum_scores, squared_distances
from fedjax_kd.components.sparsity import largest
from fedjax_kd.core import Key, Variables
from fedjax_kd.local import Fit, Fitted
from fedjax_kd.task import Task
from fedjax_kd.wrappers import privacy, with_ema, with_krum, with_median, with_privacy

pytestmark = pytest.mark.usefixtures("float64")


def from_zero(like: Any) -> Task:
    """A model of zeros."""
    zeros = jax.tree.map(jnp.zeros_like, like)
    return task_of(lambda key: Variables(zeros), lambda model, x, key=None: (x, ()))


def moving(updates: Any) -> Fit:
    """Local training that changes the model of client k by entry k, perhaps of the round."""

    def fit(key: Key, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        given = updates(round.number) if callable(updates) else updates
        own = jax.tree.map(lambda a: a[data.client], given)
        moved = Variables(jax.tree.map(jnp.add, model.params, own))
        return Fitted(moved, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    return Fit(fit, lambda sizes, *_: sizes)


def after_one_round(wrapper: Any, updates: Any) -> Any:
    """The parameters after a round in which each client sends its update."""
    updates = jax.tree.map(jnp.asarray, updates)
    clients = len(jax.tree.leaves(updates)[0])
    base = fedavg(from_zero(jax.tree.map(lambda a: a[0], updates)), moving(updates))
    ((state, _),) = rounds(wrapper(base), one_row_a_client(clients), [range(clients)])
    return state.server.model.params


@pytest.mark.parametrize(("key", "parts"), keys_of("gradient_dropping", r"out_sent_R(\w+)"))
def test_gradient_dropping(key: str, parts: tuple[str]):
    vectors, keep = golden("gradient_dropping"), 1 - number(*parts)
    residual = jnp.zeros_like(jnp.asarray(vectors["in_g"][0]))
    for n, gradient in enumerate(vectors["in_g"]):
        waiting = jnp.asarray(gradient) + residual
        sent = largest(waiting, keep)
        residual = waiting - sent
        np.testing.assert_array_equal(sent, vectors[key][n])
        np.testing.assert_array_equal(residual, vectors[key.replace("sent", "residual")][n])
        threshold = vectors[key.replace("sent", "threshold")][n]
        assert float(jnp.abs(sent[sent != 0]).min()) > threshold


def clients_of_privacy(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(vectors["in_num_examples"])
    return {n: np.stack([vectors[f"in_c{k}_{n}"] for k in range(count)]) for n in ("w", "b")}


def flat(update: Any) -> np.ndarray:
    return np.concatenate([np.ravel(update["w"]), np.ravel(update["b"])])


def test_updates_are_clipped_by_their_joint_norm():
    vectors = golden("dp_central")
    clients, clip = clients_of_privacy(vectors), float(vectors["in_clip"])
    for k, norm in enumerate(vectors["out_norms"]):
        own = {n: jnp.asarray(a[k]) for n, a in clients.items()}
        np.testing.assert_allclose(np.linalg.norm(flat(own)), norm, **EXACT)
        found = flat(privacy.clipped_to(own, clip))
        np.testing.assert_allclose(found, vectors["out_clipped"][k], **EXACT)


@pytest.mark.parametrize("fixed", [False, True])
def test_central_privacy(fixed: bool, monkeypatch: pytest.MonkeyPatch):
    vectors = golden("dp_central")
    clip, sigma = float(vectors["in_clip"]), float(vectors["in_sigma"])
    drawn = {vectors[f"in_noise_{n}"].shape: vectors[f"in_noise_{n}"] for n in ("w", "b")}
    expected, denominator = vectors["out_pfl_noisy_mean"], None
    if fixed:
        denominator = float(vectors["in_expected_cohort"])
        expected = vectors["out_pfl_noisy_sum"] / denominator
    monkeypatch.setattr(
        privacy.jax.random, "normal", lambda key, shape: jnp.asarray(drawn[shape] / (clip * sigma))
    )
    params = after_one_round(
        lambda base: with_privacy(base, clip=clip, noise=sigma, denominator=denominator),
        clients_of_privacy(vectors),
    )
    np.testing.assert_allclose(flat(params), expected, rtol=1e-6)


def test_median():
    vectors = golden("robust")
    params = after_one_round(with_median, vectors["in_updates"])
    np.testing.assert_allclose(params, vectors["out_median"], **EXACT)
    even = after_one_round(with_median, vectors["in_updates"][:10])
    np.testing.assert_allclose(even, np.median(vectors["in_updates"][:10], axis=0), **EXACT)


def test_krum():
    vectors = golden("robust")
    updates, f = vectors["in_updates"], int(vectors["in_f"])
    distances = squared_distances([jnp.asarray(updates)])
    np.testing.assert_allclose(distances, vectors["out_sq_distances"], rtol=1e-6, atol=1e-9)
    scores = krum_scores(distances, jnp.ones(len(updates)), f)
    np.testing.assert_allclose(scores, vectors["out_krum_scores"], rtol=1e-6)
    one = after_one_round(lambda base: with_krum(base, malicious=f), updates)
    np.testing.assert_allclose(one, vectors["out_krum"], **EXACT)
    five = after_one_round(lambda base: with_krum(base, malicious=f, select=5), updates)
    np.testing.assert_allclose(five, vectors["out_multikrum_m5_paper"], rtol=1e-6)


@pytest.mark.parametrize("start", ["model", "zero"])
def test_server_ema(start: str):
    vectors = golden("server_rules")
    iterates = jnp.asarray(vectors["in_iterates"], float)
    # Started at the first iterate, the average has seen it before the first round.
    first, steps = (0, iterates[1:]) if start == "model" else (None, iterates)
    initial = jnp.zeros(3) if first is None else iterates[first]

    def fit(key: Key, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        moved = Variables(steps[round.number])
        return Fitted(moved, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    task = task_of(lambda key: Variables(initial), lambda model, x, key=None: (model.params, ()))
    plain = fedavg(task, Fit(fit, lambda sizes, *_: sizes))
    averaged = with_ema(plain, federation(), beta=float(vectors["in_ema"]), ema_start=start)
    played = rounds(averaged, one_row_a_client(1), [[0]] * len(steps))
    found = [averaged.predict(state.server, (), None) for state, _ in played]
    name = "out_ema" if start == "model" else "out_ema_zero_init_debiased"
    np.testing.assert_allclose(found, vectors[name][-len(steps) :], rtol=1e-12)
