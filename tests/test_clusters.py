"""What is special about methods with several models."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import federation, gap, in_round, logistic, play, rounds, start
from flax import nnx
from records_clusters import MODEL
from several_models import chosen, on_vectors, two_kinds

from fedjax_kd import tree
from fedjax_kd.algorithms import fedem, hypcluster, ifca
from fedjax_kd.components.mixtures import example_losses
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Batch, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training
from fedjax_kd.task import from_nnx


def test_ifca_with_a_common_body():
    """All train the body, and it is averaged over all; heads are those of clusters."""
    task, fit = logistic(hidden=2), local_training(client_lr=0.3, batch_size=0)
    algorithm, pool, cohort = ifca(task, fit, clusters=3, common="body"), two_kinds(), range(4)
    before = start([algorithm], np.zeros(6))
    ((after, report),) = rounds(algorithm, pool, [cohort])
    who = chosen(algorithm, before, pool, cohort)
    assert len(set(who)) > 1
    body, heads = before.server.common.model, before.server.own.model
    changes = []
    for k, number in zip(cohort, who, strict=True):
        model = combine(body, jax.tree.map(lambda a, n=number: a[n], heads))
        data = pool.of(jnp.int32(k))
        new = fit(jax.random.key(0), model, data, task.loss, in_round()).model
        changes.append(jax.tree.map(jnp.subtract, new.params, model.params))
    shared = sum(change[0]["w"] for change in changes) / len(changes)
    found = after.server.common.model.params[0]["w"] - body.params[0]["w"]
    np.testing.assert_allclose(found, shared, atol=1e-6)
    for number in range(3):
        mine = [c[1]["w"] for c, n in zip(changes, who, strict=True) if n == number]
        found = (after.server.own.model.params[1]["w"] - heads.params[1]["w"])[number]
        np.testing.assert_allclose(found, sum(mine) / max(len(mine), 1), atol=1e-6)
    assert float(report.wire[0].up.sum()) == len(cohort) * (tree.num_bytes(changes[0]) + 4)
    types = check_algorithm(algorithm, pool)
    assert types.bytes_down == tree.num_bytes(changes[0][0]) + 3 * tree.num_bytes(changes[0][1])
    with pytest.raises(TypeError, match="features"):
        ifca(
            from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs), example_x=pool.x[:1]),
            fit,
            common="body",
        )


def test_clients_find_their_kind():
    """Also those that took no part in training."""
    fit = local_training(client_lr=0.3, batch_size=4, epochs=4)
    algorithm, pool = hypcluster(logistic(), fit), two_kinds()
    state, _ = play(algorithm, pool, [(0, 1, 2, 3)] * 10)
    found = chosen(algorithm, state, pool, range(6))
    assert found in ([0, 1] * 3, [1, 0] * 3)
    own, data = (jnp.int32(found[5]), pool.of(jnp.int32(5)))
    rows = data.rows[data.start : data.start + data.size]
    right = algorithm.predict(state.server, own, pool.x[rows]).argmax(-1) == pool.y[rows]
    other = algorithm.predict(state.server, 1 - own, pool.x[rows]).argmax(-1) == pool.y[rows]
    assert right.mean() > 0.7
    assert other.mean() < 0.3


@pytest.mark.parametrize("server_opt", [optax.rmsprop, partial(optax.sgd, momentum=0.9)])
def test_a_cluster_that_nobody_chose_stays_bitwise(server_opt: Any):
    """Whatever the server's optimiser remembers of it."""
    algorithm = hypcluster(
        logistic(), local_training(batch_size=4), server_opt=server_opt, server_lr=0.1
    )
    pool = two_kinds()
    played = [state for state, _ in rounds(algorithm, pool, [(0, 1, 2, 3)] * 4 + [(0,), (1,)])]
    both = chosen(algorithm, played[3], pool, [0, 1])
    assert sorted(both) == [0, 1]
    for before, after, mine in zip(played[3:], played[4:], both, strict=False):
        for number in (0, 1):
            old, new = (
                jax.tree.map(lambda a, n=number: a[n], s.server.own) for s in (before, after)
            )
            assert (gap(old, new) > 0) == (number == mine)


def test_nobody_chooses_a_model_that_is_not_finite():
    algorithm, pool = hypcluster(logistic(), local_training()), two_kinds()
    state = start([algorithm], np.zeros(6))
    own = state.server.own
    params = jax.tree.map(lambda a: a.at[0].set(jnp.nan), own.model.params)
    own = own._replace(model=own.model._replace(params=params))
    state = state._replace(server=state.server._replace(own=own))
    assert chosen(algorithm, state, pool, range(6)) == [1] * 6
    ((after, report),) = rounds(algorithm, pool, [(0, 1)], state=state)
    assert float(report.used.sum()) == 2
    assert bool(jnp.isfinite(after.server.own.model.params[0]["w"][1]).all())


def test_who_has_no_examples_gets_the_first_cluster():
    algorithm, pool = hypcluster(logistic(), local_training(), clusters=3), federation().train
    state = start([algorithm], np.zeros(6))
    assert chosen(algorithm, state, pool, [1]) == [0]
    x = pool.x[:5]
    first = algorithm.predict(state.server, jnp.int32(0), x)
    np.testing.assert_array_equal(algorithm.predict(state.server, (), x), first)


def test_bytes_are_those_of_one_change_and_a_number():
    algorithm = hypcluster(logistic(), local_training(), clusters=5)
    _, (report,) = play(algorithm, two_kinds(), [(0, 1, 2)])
    assert float(report.wire[0].up.sum()) == 3 * (MODEL + 4)
    assert report.wire[0].down is None, "all models, by their types"


def test_models_that_start_alike_are_refused():
    task = logistic()._replace(init=lambda key: logistic().init(jax.random.key(3)))
    with pytest.raises(ValueError, match=r"All 2 models would start alike.*let it draw"):
        hypcluster(task, local_training())
    hypcluster(task, local_training(), clusters=1)
    with pytest.raises(ValueError, match="All 3 models would start alike"):
        fedem(task, local_training())
    with pytest.raises(ValueError, match="clusters is 0, but must be >= 1"):
        hypcluster(logistic(), local_training(), clusters=0)


def test_fedem_finds_mixtures_and_predicts_by_them():
    fit = local_training(client_lr=0.5, batch_size=4, epochs=4)
    algorithm, pool = fedem(logistic(), fit, components=2), two_kinds()
    state, _ = play(algorithm, pool, [(0, 1, 2, 3)] * 10)

    def mixture_of(k: int, client: Any) -> tuple[Any, Any]:
        data = pool.of(jnp.int32(k))
        ready = algorithm.personalise(jax.random.key(0), state.server, client, data)
        return ready, algorithm.traits(state.server, ready)["mixture"]

    seen = [mixture_of(k, state.clients[0][k])[1] for k in range(4)]
    assert max(seen[0][0], seen[0][1]) > 0.9
    assert gap(seen[0], seen[2]) < 0.1
    assert gap(seen[0], seen[1]) > 0.8
    # A newcomer starts with a uniform mixture.
    newcomer = algorithm.client_init(jax.random.key(0), state.server)
    np.testing.assert_allclose(algorithm.traits(state.server, newcomer)["mixture"], 0.5)
    ready, found = mixture_of(5, newcomer)
    assert gap(found, seen[1]) < 0.25
    logits = algorithm.predict(state.server, ready, pool.x[40:])
    each = [
        jax.nn.softmax(
            logistic().apply(jax.tree.map(lambda a, n=n: a[n], state.server.model), x)[0]
        )
        for n, x in enumerate([pool.x[40:]] * 2)
    ]
    expected = found[0] * each[0] + found[1] * each[1]
    np.testing.assert_allclose(jnp.exp(logits), expected, rtol=1e-5)


def test_fedem_without_examples_keeps_its_mixture():
    algorithm, pool = fedem(logistic(), local_training()), federation().train
    state = start([algorithm], np.zeros(6))
    mine = jnp.array([1.0, 2.0, 0.5])
    ready = algorithm.personalise(jax.random.key(0), state.server, mine, pool.of(jnp.int32(1)))
    np.testing.assert_array_equal(ready, mine)


def test_fedem_has_no_probability_that_is_lost_for_ever():
    algorithm, pool = fedem(logistic(), local_training(), components=2), two_kinds()
    server = start([algorithm], np.zeros(6)).server
    client = jnp.array([0.0, -300.0])  # in float32 e^-300 is 0
    data = pool.of(jnp.int32(0))
    after = algorithm.personalise(jax.random.key(0), server, client, data)
    assert bool(jnp.isfinite(after).all())


def test_fedem_counts_an_example_of_many_labels_once():
    """A sequence is of one component: its loss is the mean over its known labels."""
    values = jnp.array([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])
    task = on_vectors(3, lambda v, x, key=None: (x * v.params[0], v.stats), lambda out, y: out)
    models = Variables(jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    labels = jnp.array([[0, 0, -1], [0, 0, 0]], jnp.int32)
    found = example_losses(task, models, Batch(values, labels, jnp.ones(2)))
    np.testing.assert_allclose(found, [[1.5, 5.0], [3.0, 10.0]])
