"""Golden vectors of methods with several models, and what is special about these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import CLASSES, federation, gap, in_round, logistic, play, rounds, start, task_of
from flax import nnx
from records_clusters import MODEL
from test_golden import EXACT, TORCH
from vectors import golden

from fedjax_kd import batching, losses, tree
from fedjax_kd.algorithms import fedem, hypcluster, ifca
from fedjax_kd.components.clusters import mean_losses
from fedjax_kd.components.mixtures import example_losses
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Batch, Data, Key, Pool, State, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.task import Task, from_nnx

FEDJAX_COHORTS = ((0, 1, 2, 3), (0, 2, 3))


def pool_of(xs: Sequence[Any], ys: Sequence[Any]) -> Pool:
    """Clients with the given examples."""
    sizes = np.array([len(y) for y in ys], np.int32)
    rows, starts = np.arange(sizes.sum(), dtype=np.int32), np.cumsum(sizes) - sizes
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    return Pool(jnp.asarray(np.concatenate(xs)), jnp.asarray(np.concatenate(ys)), *owned)


def softmax_regression(inputs: int, classes: int) -> Task:
    """Softmax regression on vectors."""

    def init(key: Key) -> Variables:
        return Variables({"W": jax.random.normal(key, (classes, inputs)), "b": jnp.zeros(classes)})

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        return x @ model.params["W"].T + model.params["b"][None], model.stats

    return task_of(init, apply)


def start_from(algorithm: Algorithm, models: Any, clients: int) -> State:
    """The initial state, but with these models of the clusters."""
    state = start([algorithm], np.zeros(clients))
    own = state.server.own
    params = jax.tree.map(lambda a, new: jnp.asarray(new, a.dtype), own.model.params, models)
    own = own._replace(model=own.model._replace(params=params))
    return state._replace(server=state.server._replace(own=own))


def chosen(algorithm: Algorithm, state: State, pool: Pool, clients: Sequence[int]) -> list[int]:
    """The clusters that clients choose, as their traits tell."""
    numbers = []
    for k in clients:
        data = pool.of(jnp.int32(k))
        client = algorithm.personalise(jax.random.key(0), state.server, (), data)
        found = algorithm.traits(state.server, client)["cluster"]
        assert int(found.sum()) == 1
        numbers.append(int(found.argmax()))
    return numbers


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


def on_vectors(width: int, apply: Any, example_loss: Any) -> Task:
    """A task whose parameters are one vector."""

    def init(key: Key) -> Variables:
        return Variables(jax.random.normal(key, (width,)))

    def loss(model: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Any]:
        values = example_loss(apply(model, batch.x)[0], batch.y)
        return losses.batch_mean(values, batch), model.stats

    return task_of(init, apply)._replace(loss=loss, example_loss=example_loss)


def linear_regression(inputs: int) -> Task:
    """Linear regression without a bias."""
    return on_vectors(inputs, lambda v, x, key=None: (x @ v.params, v.stats), losses.squared_error)


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


def with_params(state: State, params: Any) -> State:
    """The state whose server's models have these parameters."""
    model = state.server.model._replace(params=jnp.asarray(params))
    return state._replace(server=state.server._replace(model=model))


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


def two_kinds(clients: int = 6) -> Pool:
    """Clients whose classes are called otherwise from one to the next."""
    pool = federation((8,) * clients).train
    y = (pool.y + jnp.repeat(jnp.arange(clients, dtype=jnp.int32) % 2, 8)) % CLASSES
    return pool._replace(y=y)


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
