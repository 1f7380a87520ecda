"""Golden vectors of methods in which no weights travel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, logistic, play, rounds, start, task_of
from several_models import pool_of
from two_layers import two_layers
from vectors import golden

from fedjax_kd import batching, tree
from fedjax_kd.algorithms import fd, fedproto
from fedjax_kd.components import class_means
from fedjax_kd.components.class_means import ClassSums
from fedjax_kd.components.trained_prototypes import (
    PrototypeTraining,
    largest_gap,
    prototypes_of,
    train_prototypes,
)
from fedjax_kd.core import Key, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.local import local_training

TORCH = {"rtol": 2e-5, "atol": 2e-6}
HEAD = ("Wh", "bh")


@pytest.mark.parametrize("at", ["r0", "r1"])
def test_fedproto_round(at: str, monkeypatch: pytest.MonkeyPatch):
    vectors = golden("fedproto_round")
    # Clients take their examples in the order of the file.
    monkeypatch.setattr(batching, "shuffled", lambda seed, positions, size: positions)
    batches, rows, width = vectors["in_x"].shape
    pool = pool_of([vectors["in_x"].reshape(-1, width)], [vectors["in_y"].reshape(-1)])
    pool = pool._replace(y=pool.y.astype(jnp.int32))
    rates = {name: float(vectors[f"in_{name}"]) for name in ("lr", "momentum")}
    fit = local_training(client_lr=rates["lr"], client_momentum=rates["momentum"], batch_size=rows)
    algorithm = fedproto(two_layers(vectors, *HEAD), fit, lamb=float(vectors["in_ld"]))
    state = start([algorithm], np.zeros(1))
    known = np.zeros(len(vectors["in_global_protos"]), np.float32)
    known[vectors["in_known"] if at == "r1" else []] = 1
    given = ClassSums(jnp.asarray(vectors["in_global_protos"] * known[:, None]), jnp.asarray(known))
    state = state._replace(server=state.server._replace(of_classes=given))
    ((after, report),) = rounds(algorithm, pool, [[0]], state=state)
    for name in ("Wb", "bb", *HEAD):
        found = after.clients[0].params[name][0]
        np.testing.assert_allclose(found, vectors[f"out_{at}_{name}"], **TORCH)
    loss = float(report.metrics["loss"])
    assert loss == pytest.approx(vectors[f"out_{at}_losses"][-1], rel=1e-5)
    assert batches == 2, "the loss is the mean of the steps"
    seen = vectors[f"out_{at}_proto_counts"] > 0
    found = np.asarray(class_means.class_means(after.server.of_classes))
    np.testing.assert_allclose(found[seen], vectors[f"out_{at}_protos"][seen], **TORCH)
    np.testing.assert_array_equal(found[~seen], np.asarray(given.sums)[~seen])


@pytest.mark.parametrize(("weighting", "key"), [("uniform", ""), ("examples", "_count_weighted")])
def test_fedproto_means_of_clients_and_nearest_prototypes(weighting: str, key: str):
    vectors = golden("fedproto_round")
    counts = jnp.asarray(vectors["in_counts"], jnp.float32)
    means = jnp.asarray(np.nan_to_num(vectors["in_local_protos"]))
    sent = ClassSums(means * counts[..., None], counts)
    if weighting == "uniform":
        sent = jax.vmap(class_means.as_one_each)(sent)
    together = jax.tree.map(lambda a: a.sum(0), sent)
    found, expected = class_means.class_means(together), vectors[f"out_global{key}"]
    known = np.asarray(together.counts) > 0
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-5, atol=1e-6)
    if weighting == "uniform":
        query = jnp.asarray(vectors["in_query"])
        near = class_means.nearness(query, together, jnp.zeros((len(query), len(known))))
        np.testing.assert_allclose(
            -near[:, known], vectors["out_query_dist"][:, known], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(near.argmax(-1), vectors["out_query_pred"])


def method(**options: Any) -> Any:
    return fedproto(logistic(hidden=2), local_training(client_lr=0.1, batch_size=4), **options)


def test_a_class_that_nobody_has_keeps_its_prototype():
    pool = federation((6, 6)).train
    only = pool._replace(y=jnp.zeros_like(pool.y).at[6:].set(1))
    algorithm = method()
    states = [state for state, _ in rounds(algorithm, only, [[0], [1]])]
    first, second = (state.server.of_classes for state in states)
    np.testing.assert_array_equal(second.sums[0], first.sums[0])
    assert first.counts.tolist()[:2] == [1, 0]
    assert second.counts.tolist()[:2] == [1, 1]
    assert second.counts.tolist()[2:] == [0] * (len(second.counts) - 2)
    near = algorithm.predict(states[1].server, own_of(states[1], 0), only.x[:3])
    assert set(np.asarray(near.argmax(-1)).tolist()) <= {0, 1}


def own_of(state: Any, client: int) -> Variables:
    return jax.tree.map(lambda a: a[client], state.clients[0])


def test_the_head_predicts_before_there_are_prototypes():
    pool, algorithm = federation((6, 6)).train, method()
    state = start([algorithm], np.zeros(2))
    by_head = method(predicts="head").predict(state.server, own_of(state, 0), pool.x[:3])
    found = algorithm.predict(state.server, own_of(state, 0), pool.x[:3])
    np.testing.assert_array_equal(found, by_head)


def test_without_a_pull_clients_train_alone():
    pool = federation((6, 6)).train
    together, _ = play(method(lamb=0.0), pool, [(0, 1), (0, 1)])
    alone, _ = play(method(lamb=0.0), pool, [(0,), (0,)])
    for both, one in zip(*map(jax.tree.leaves, (together.clients, alone.clients)), strict=True):
        np.testing.assert_allclose(both[0], one[0], rtol=1e-6)


def test_bad_options_say_what_to_do():
    with pytest.raises(InputError, match="predicts is 'nearest', but must be"):
        method(predicts="nearest")
    with pytest.raises(InputError, match="weighting is 'class'"):
        method(weighting="class")


def test_fedtgp_step():
    vectors = golden("server_rules")
    counts = jnp.asarray(vectors["in_tgp_has"], jnp.float32)
    means = jnp.asarray(vectors["in_tgp_local"]) * counts[..., None]
    together = ClassSums(means.sum(0), counts.sum(0))
    gap = largest_gap(class_means.class_means(together), together.counts > 0)
    np.testing.assert_allclose(gap, vectors["out_tgp_max_gap"], rtol=1e-6)
    how = PrototypeTraining(steps=1, lr=0.1, hidden=0, largest=100.0)
    given = {"embedding": jnp.asarray(vectors["in_tgp_global"])}
    found = prototypes_of(train_prototypes(how, given, ClassSums(means, counts)))
    np.testing.assert_allclose(found, vectors["out_tgp_global_after_step"], rtol=1e-5, atol=1e-6)


def test_prototypes_at_a_mean_and_clients_that_send_nothing_are_finite():
    how = PrototypeTraining(steps=2, lr=0.1, hidden=0, largest=1.0)
    given = {"embedding": jnp.ones((3, 2))}
    for counts in (jnp.ones((1, 3)), jnp.zeros((1, 3))):
        found = train_prototypes(how, given, ClassSums(jnp.ones((1, 3, 2)), counts))
        assert bool(jnp.isfinite(found["embedding"]).all())
    np.testing.assert_array_equal(found["embedding"], given["embedding"])


def linear_classifier(vectors: dict[str, np.ndarray]) -> Any:
    """Softmax regression that starts as the vectors say."""
    given = Variables({"W": jnp.asarray(vectors["in_W"]), "b": jnp.asarray(vectors["in_b"])})

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        return x @ model.params["W"].T + model.params["b"][None], model.stats

    inputs = jax.ShapeDtypeStruct((2, vectors["in_W"].shape[1]), jnp.float32)
    return task_of(lambda key: given, apply)._replace(input_types=inputs)


def test_fd_round_of_pfllib(monkeypatch: pytest.MonkeyPatch):
    vectors = golden("fd_label_logits")
    monkeypatch.setattr(batching, "shuffled", lambda seed, positions, size: positions)
    _, rows, width = vectors["in_x"].shape
    pool = pool_of([vectors["in_x"].reshape(-1, width)], [vectors["in_y"].reshape(-1)])
    pool = pool._replace(y=pool.y.astype(jnp.int32))
    fit = local_training(client_lr=float(vectors["in_lr"]), batch_size=rows)
    gamma = float(vectors["in_lambda"])
    algorithm = fd(linear_classifier(vectors), fit, gamma=gamma, phi="pfllib")
    state = start([algorithm], np.zeros(1))
    known = np.isin(np.arange(len(vectors["in_b"])), vectors["in_known"]).astype(np.float32)
    sums = jnp.asarray(np.nan_to_num(vectors["in_global_logits"]) * known[:, None])
    given = ClassSums(sums, jnp.asarray(known))
    state = state._replace(server=state.server._replace(table=given))
    ((after, _),) = rounds(algorithm, pool, [[0]], state=state)
    for name in "Wb":
        found = after.clients[0].base.params[name][0]
        np.testing.assert_allclose(found, vectors[f"out_pfllib_{name}"], **TORCH)
    found, expected = after.server.table, vectors["out_pfllib_client_logits"]
    seen = ~np.isnan(expected).any(1)
    np.testing.assert_allclose(found.sums[seen], expected[seen], **TORCH)
    np.testing.assert_array_equal(found.counts, seen)


def test_fd_teachers_are_the_others():
    vectors = golden("fd_label_logits")
    counts = jnp.asarray(vectors["in_counts"], jnp.float32)
    own = jnp.asarray(np.nan_to_num(vectors["in_own"]), jnp.float32)
    sent = jax.vmap(class_means.as_one_each)(ClassSums(own * counts[..., None], counts))
    together = jax.tree.map(lambda a: a.sum(0), sent)
    known = np.asarray(together.counts) > 0
    everyone = class_means.class_means(together)
    np.testing.assert_allclose(everyone[known], vectors["out_paper_mean"][known], rtol=1e-5)
    for k in range(len(own)):
        mine = jax.tree.map(lambda a, k=k: a[k], sent)
        others, expected = tree.sub(together, mine), vectors["out_paper_leave_one_out"][k]
        has = ~np.isnan(expected).any(1)
        np.testing.assert_array_equal(np.asarray(others.counts) > 0, has)
        found = class_means.class_means(others)
        np.testing.assert_allclose(found[has], expected[has], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("phi", "key"), [("cross_entropy", "ce_softmax"), ("squared", "mse_logits")]
)
def test_fd_regulariser(phi: Any, key: str):
    vectors = golden("fd_label_logits")
    given = vectors["out_paper_leave_one_out"][0]
    has = ~np.isnan(given).any(1)
    sums = jnp.asarray(np.nan_to_num(given), jnp.float32)
    teachers = ClassSums(sums, jnp.asarray(has, jnp.float32))
    task = linear_classifier(vectors)
    z, _ = task.apply(task.init(jax.random.key(0)), jnp.asarray(vectors["in_x"][0]))
    y = jnp.asarray(vectors["in_y"][0], jnp.int32)
    found, mask = class_means.taught(phi, z, y, teachers), vectors["out_paper_reg_mask"]
    np.testing.assert_array_equal(has[np.asarray(y)], mask)
    np.testing.assert_allclose(found, vectors[f"out_paper_reg_{key}"], rtol=1e-5, atol=1e-6)


def test_fd_does_not_teach_a_client_by_itself():
    pool, fit = federation((6, 6, 6)).train, local_training(client_lr=0.1, batch_size=4)
    alone, _ = play(fd(logistic(), fit, gamma=0.0), pool, [(0,), (0,), (0, 1)])
    taught, _ = play(fd(logistic(), fit, gamma=1.0), pool, [(0,), (0,), (0, 1)])
    first, second = (
        [
            np.concatenate([np.ravel(leaf[k]) for leaf in jax.tree.leaves(s.clients[0].base)])
            for k in (0, 1)
        ]
        for s in (alone, taught)
    )
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6)
    assert np.abs(first[1] - second[1]).max() > 1e-3, "client 1 was taught by client 0"


def test_fd_knows_its_own_logits_after_a_round_in_which_nothing_arrived():
    pool, fit = federation((6, 0)).train, local_training(client_lr=0.1, batch_size=4)
    cohorts = [(0,), (1,), (0,)]  # client 1 has no examples, and sends nothing that counts
    alone, _ = play(fd(logistic(), fit, gamma=0.0), pool, cohorts)
    taught, _ = play(fd(logistic(), fit, gamma=1.0), pool, cohorts)
    for one, other in zip(*map(jax.tree.leaves, (alone.clients, taught.clients)), strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
