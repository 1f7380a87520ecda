"""Golden vectors of methods with several models."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import rounds, start
from several_models import (
    chosen,
    linear_regression,
    on_vectors,
    pool_of,
    softmax_regression,
    start_from,
    with_params,
)
from test_golden import EXACT, TORCH
from vectors import golden

from fedjax_kd import batching
from fedjax_kd.algorithms import fedem, hypcluster, ifca
from fedjax_kd.components.clusters import mean_losses
from fedjax_kd.core import Data, Key, Variables
from fedjax_kd.local import Fitted, local_training

FEDJAX_COHORTS = ((0, 1, 2, 3), (0, 2, 3))


@pytest.mark.usefixtures("float64")
def test_hypcluster_rounds(monkeypatch: pytest.MonkeyPatch):
    vectors = golden("hypcluster_rounds")
    clients = range(sum(key.startswith("in_y") for key in vectors))
    # Clients take their examples in the order of the file.
    monkeypatch.setattr(batching, "shuffled", lambda seed, positions, size: positions)
    models = {name: vectors[f"in_cluster_{name}"].astype(float) for name in "Wb"}
    xs, ys = ([vectors[f"in_{name}{k}"] for k in clients] for name in "xy")
    pool = pool_of([x.astype(float) for x in xs], [y.astype(np.int32) for y in ys])
    fit = local_training(
        client_lr=float(vectors["in_lr"]),
        batch_size=int(vectors["in_batch_size"]),
        epochs=int(vectors["in_epochs"]),
        last_batch="wrap",
    )
    count, classes, inputs = models["W"].shape
    task = softmax_regression(inputs, classes)
    algorithm = hypcluster(
        task,
        fit,
        clusters=count,
        server_lr=float(vectors["in_server_lr"]),
        server_opt=partial(optax.sgd, momentum=float(vectors["in_server_momentum"])),
    )
    before = start_from(algorithm, models, len(clients))
    played = rounds(algorithm, pool, FEDJAX_COHORTS, state=before)
    for r, ((after, _), cohort) in enumerate(zip(played, FEDJAX_COHORTS, strict=True)):
        own = before.server.own.model
        seen = [mean_losses(task, own, pool.of(jnp.int32(k))) for k in cohort]
        np.testing.assert_allclose(seen, vectors[f"out_r{r}_losses"], rtol=1e-12)
        assigned = vectors[f"out_r{r}_assign"].tolist()
        assert chosen(algorithm, before, pool, cohort) == assigned
        for name in "Wb":
            expected = vectors[f"out_r{r}_{name}"]
            np.testing.assert_allclose(after.server.own.model.params[name], expected, **EXACT)
        left_alone = sorted(set(range(count)) - set(assigned))
        assert left_alone, "the vectors have a cluster that nobody chose"
        old, new = (
            jax.tree.map(lambda a, who=left_alone: a[np.array(who)], s.server.own)
            for s in (before, after)
        )
        jax.tree.map(np.testing.assert_array_equal, old, new)
        before = after


def test_ifca_of_gradients():
    """The authors' synthetic data, where the sum is divided by the number of all clients."""
    vectors = golden("ifca_synthetic")
    pool, clients = pool_of(vectors["in_X"], vectors["in_y"]), range(len(vectors["in_y"]))
    task = linear_regression(vectors["in_X"].shape[-1])
    fit = local_training(client_lr=float(vectors["in_lr"]), batch_size=2, epochs=3)
    algorithm = ifca(task, fit, clusters=len(vectors["in_W"]), averaging="gradients")
    before = start_from(algorithm, vectors["in_W"], len(clients))
    number = sum(re.fullmatch(r"out_set_r\d+_W", key) is not None for key in vectors)
    for r, (after, _) in enumerate(rounds(algorithm, pool, [clients] * number, state=before)):
        at = f"out_set_r{r}"
        assert chosen(algorithm, before, pool, clients) == vectors[f"{at}_assign"].tolist()
        found = [mean_losses(task, before.server.own.model, pool.of(jnp.int32(k))) for k in clients]
        np.testing.assert_allclose(np.min(found, 1), vectors[f"{at}_min_losses"], **TORCH)
        np.testing.assert_allclose(after.server.own.model.params, vectors[f"{at}_W"], **TORCH)
        before = after


def test_ifca_of_models():
    """The authors' server for FEMNIST: the models of a group are averaged by examples."""
    vectors = golden("ifca_synthetic")
    models, groups, sizes = (vectors[f"in_femnist_{name}"] for name in ("models", "groups", "n"))

    def fit(key: Key, model: Variables, data: Data, objective: Any, round: Any) -> Fitted:
        new = jnp.asarray(vectors["in_femnist_updates"])[data.client]
        return Fitted(Variables(new), jnp.float32(0), jnp.int32(1), jnp.float32(1))

    def distance(params: Any, group: Any) -> Any:
        return ((params[None] - jnp.asarray(models)[group]) ** 2).sum(1)

    task = on_vectors(models.shape[1], lambda v, x, key=None: (v.params, v.stats), distance)
    labels = [np.full(n, group, np.int32) for n, group in zip(sizes, groups, strict=True)]
    pool = pool_of(labels, labels)
    algorithm = ifca(task, fit, clusters=len(models), weighting="examples")
    state = start_from(algorithm, models, len(sizes))
    assert chosen(algorithm, state, pool, range(len(sizes))) == groups.tolist()
    ((state, _),) = rounds(algorithm, pool, [range(len(sizes))], state=state)
    np.testing.assert_allclose(
        state.server.own.model.params, vectors["out_femnist_models"], **TORCH
    )


def test_fedem_step():
    """The parameters of a model are its losses on the examples, whose gradients are q."""
    vectors = golden("server_rules")
    values, mixture = vectors["in_em_losses"], vectors["in_em_pi"]
    count = values.shape[1]
    task = on_vectors(count, lambda v, x, key=None: (v.params[x], v.stats), lambda out, y: out)
    algorithm = fedem(task, local_training(client_lr=1.0, batch_size=0), components=len(mixture))
    examples = np.arange(count, dtype=np.int32)
    pool = pool_of([examples], [examples])
    state = with_params(start([algorithm], np.zeros(1)), values)
    state = state._replace(clients=(jnp.log(mixture)[None],))
    ready = algorithm.personalise(jax.random.key(0), state.server, jnp.log(mixture), pool.of(0))
    ((after, _),) = rounds(algorithm, pool, [[0]], state=state)
    q = count * (values - after.server.model.params)
    np.testing.assert_allclose(q, vectors["out_em_q"], **TORCH)
    for client in (ready, after.clients[0][0]):
        found = algorithm.traits(after.server, client)["mixture"]
        np.testing.assert_allclose(found, vectors["out_em_pi"], **TORCH)
