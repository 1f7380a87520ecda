"""The engine beyond the registry: groups, statistics, stacked uploads, the debug engine, blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import FEATURES, SIZES, federation, gap, logistic, play, rounds
from flax import nnx

from fedjax_kd import tree
from fedjax_kd.algorithms import fedadam, fedavg, scaffold
from fedjax_kd.core import Algorithm, Upload, Variables, mean, stack, total, uniform_mean
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.debug import StageError
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.task import Task, from_nnx
from fedjax_kd.train import blocks, train

FIT = local_training(client_lr=0.1, batch_size=0)
PUBLIC = Public(Stored(jnp.linspace(-1, 1, 5 * FEATURES).reshape(5, FEATURES)))


def distilling(task: Task, model: str) -> Algorithm:
    """A toy of FedMD: clients keep their models and send logits on the public examples.

    Also sent, under a name that only this group uses: the model itself, stacked.
    """

    def client_update(key: Any, teacher: Any, own: Variables, data: Any, round: Any) -> Any:
        fitted = FIT(key, own, data, task.loss, round)
        logits = task.apply(fitted.model, round.public.inputs.x)[0]
        message = {"logits": logits, model: fitted.model}
        return Upload(message, data.size.astype(jnp.float32), {model: fitted.loss}), fitted.model

    return Algorithm(
        server_init=lambda key: {
            "logits": jnp.zeros((5, 3)),
            "sizes": jnp.zeros(2),
            "heads": jnp.zeros(3),
        },
        client_init=lambda key, server: task.init(key),
        broadcast=lambda server, number, round: server["logits"],
        client_update=client_update,
        aggregate={"logits": mean, model: stack},
        server_update=lambda key, server, update, round: {
            "logits": update["logits"],
            "sizes": jnp.array(
                [len(update[name].params[0]["b"]) for name in ("small", "large")], jnp.float32
            ),
            "heads": update["small"].params[-1]["b"].sum(0),
        },
        predict=lambda server, own, x: task.apply(own, x)[0],
    )


GROUPS = (distilling(logistic(), "small"), distilling(logistic(hidden=5), "large"))
GROUP_OF = [0, 1, 0, 1, 1, 0]


def state_of(clients: Any, number: int) -> Any:
    """What one client of the groups above keeps."""
    slot = GROUP_OF[:number].count(GROUP_OF[number])
    return jax.tree.map(lambda a: a[slot], clients[GROUP_OF[number]])


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, marks=pytest.mark.thorough),
        {"chunk": 1, "mesh": 2},
        pytest.param({"debug": True}, marks=pytest.mark.thorough),
    ],
    ids=["plain", "sharded", "debug"],
)
def test_groups_share_what_they_name_alike(how: dict[str, Any]):
    how = how | ({"mesh": make_mesh(how["mesh"])} if "mesh" in how else {})
    pool, cohort = federation().train, (0, 2, 3, 4)
    played = rounds(
        GROUPS, pool, [cohort, (2, 4)], places=4, group_of=GROUP_OF, public=PUBLIC, **how
    )
    before = None
    for (server, clients, _), report in played:
        models = {c: state_of(clients, c) for c in cohort}
        tasks = [logistic(), logistic(hidden=5)]
        logits = {c: tasks[GROUP_OF[c]].apply(models[c], PUBLIC.inputs.x)[0] for c in cohort}
        votes = {c: SIZES[c] for c in cohort}
        expected = sum(votes[c] * logits[c] for c in cohort) / sum(votes.values())
        np.testing.assert_allclose(server["logits"], expected, rtol=1e-5, atol=1e-6)
        assert report.used.tolist() == [sum(GROUP_OF[c] == g for c in cohort) for g in (0, 1)]
        heads = sum(models[c].params[-1]["b"] for c in cohort if GROUP_OF[c] == 0)
        np.testing.assert_allclose(server["heads"], heads, rtol=1e-5, atol=1e-6)
        assert set(report.metrics) == {"small", "large"}
        if before is not None:
            assert gap(before[0], state_of(clients, 0)) == 0, "client 0 was not in this cohort"
        before, cohort = models, (2, 4)


def test_merge_without_names_is_over_all_groups():
    halves = (fedavg(logistic(), FIT), fedavg(logistic(), FIT))
    pool = federation().train
    state, reports = play(halves, pool, group_of=GROUP_OF)
    expected, _ = play(halves[0], pool)
    assert gap(state.server, expected.server) < 1e-6
    assert [r.used.sum().tolist() for r in reports] == [3, 2, 3]


REDUCERS = {"mean": mean, "uniform": uniform_mean, "total": total, "stack": stack}


def voter(places: int) -> Algorithm:
    """Clients upload their own numbers, reduced in every way; client 4's is not finite."""

    def client_update(key: Any, message: Any, own: Any, data: Any, round: Any) -> Any:
        value = jnp.where(data.size == SIZES[4], jnp.nan, data.x[data.rows[data.start]])
        everything = dict.fromkeys(REDUCERS, value)
        return Upload(
            everything, data.size.astype(jnp.float32), {"size": data.size.astype(jnp.float32)}
        ), own

    return Algorithm(
        server_init=lambda key: (
            dict.fromkeys(REDUCERS, jnp.zeros(FEATURES)) | {"stack": jnp.zeros((places, FEATURES))},
            jnp.zeros(places),
            jnp.zeros(places, jnp.int32),
        ),
        client_init=lambda key, server: (),
        broadcast=lambda server, number, round: (),
        client_update=client_update,
        aggregate=REDUCERS,
        server_update=lambda key, server, update, round: (update, round.present, round.cohort),
        predict=lambda server, own, x: x,
    )


@pytest.mark.parametrize(
    ("places", "how"),
    [
        (4, {}),
        (4, {"chunk": 1}),
        (4, {"chunk": 1, "mesh": 2}),
        (4, {"chunk": 2}),
        (5, {"chunk": (1, 2)}),
        (6, {"chunk": (1, 3)}),
        (6, {"chunk": (1, 2), "mesh": 2}),
    ],
)
def test_reducers_see_used_uploads_in_the_order_of_the_cohort(places: int, how: dict[str, Any]):
    how = how | ({"mesh": make_mesh(how["mesh"])} if "mesh" in how else {})
    pool = federation().train
    state, (report,) = play(voter(places), pool, [(0, 4, 1, 5)], **how)
    update, present, cohort = state.server
    used = [int(c) for c, p in zip(cohort, present, strict=True) if p]
    assert sorted(used) == [0, 5]
    assert float(report.rejected.sum()) == 1
    first = np.asarray(pool.x)[np.asarray(pool.rows[pool.starts[jnp.array(used)]])]
    votes = np.array([SIZES[c] for c in used], float)
    np.testing.assert_allclose(update["mean"], votes @ first / votes.sum(), rtol=1e-5)
    np.testing.assert_allclose(update["uniform"], first.mean(0), rtol=1e-5)
    np.testing.assert_allclose(update["total"], first.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(update["stack"][np.asarray(present) == 1], first)
    np.testing.assert_array_equal(update["stack"][np.asarray(present) == 0], 0)
    np.testing.assert_allclose(report.metrics["size"], votes @ votes / votes.sum(), rtol=1e-5)


def test_batch_norm_statistics_are_averaged_and_never_stepped():
    class Normed(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.norm, self.head = nnx.BatchNorm(FEATURES, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.norm(x))

    task, pool = from_nnx(Normed), federation().train
    locals_ = [play(fedavg(task, FIT), pool, [[c]])[0].server.model.stats for c in (0, 4)]
    (state, _) = play(fedadam(task, FIT, eta=1.0), pool, [(0, 4)])
    shares = np.array([SIZES[0], SIZES[4]], np.float32) / (SIZES[0] + SIZES[4])
    expected = jax.tree.map(lambda a, b: float(shares[0]) * a + float(shares[1]) * b, *locals_)
    assert len(jax.tree.leaves(expected)) == 2
    assert gap(state.server.model.stats, expected) < 1e-6
    assert gap(*locals_) > 1e-3


@pytest.mark.parametrize(
    "stage",
    [
        "client_update",
        pytest.param("broadcast", marks=pytest.mark.thorough),
        pytest.param("server_update", marks=pytest.mark.thorough),
    ],
)
def test_debug_engine_says_where_it_failed(stage: str):
    def broken(*args: Any) -> Any:
        raise KeyError("no such thing")

    algorithm = fedavg(logistic(), FIT)._replace(**{stage: broken})
    who = "the server" if stage == "server_update" else "client 0"
    with pytest.raises(StageError, match=rf"round 0, {who}, {stage}: KeyError") as caught:
        play(algorithm, federation().train, [(0, 4)], debug=True)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.thorough
def test_debug_engine_shows_values():
    seen = []

    def broadcast(server: Any, number: jax.Array, round: Any) -> Any:
        seen.append(int(number))
        return server.model

    algorithm = fedavg(logistic(), FIT)._replace(broadcast=broadcast)
    play(algorithm, federation().train, [(0, 4)], debug=True)
    assert seen == [0, 4]


@pytest.mark.thorough
def test_blocks_engines_and_meshes_train_alike():
    algorithm = scaffold(logistic(), FIT)
    options = {"num_rounds": 5, "cohort_size": 3, "eval_every": 2, "dropout_rate": 0.3}
    plain = train(algorithm, federation(), **options)
    for how in ({"chunk": 1, "mesh": make_mesh()}, {"engine": "python"}, {"eval_every": 5}):
        other = train(algorithm, federation(), **options | how)
        assert gap(plain.state, other.state) < 1e-5
        for row, again in zip(plain.history, other.history, strict=True):
            both = row.keys() & again.keys() - {"steps_computed"}
            assert {"round", "clients", "bytes_up"} <= both or row["round"] == 0
            np.testing.assert_allclose([row[k] for k in both], [again[k] for k in both], atol=1e-4)
    evaluated = [row["round"] for row in plain.history if "test_accuracy" in row]
    assert evaluated == [0, 2, 4, 5]


def test_a_stopped_training_goes_on_to_the_same_bits():
    simulation = simulate(
        scaffold(logistic(), FIT), federation(), num_rounds=6, cohort_size=3, eval_every=2
    )
    states = [
        (jax.tree.map(np.array, p.state), p.finished)
        for p in blocks(simulation, initial_state(simulation))
    ]
    middle, finished = states[1]
    (*_, last) = blocks(simulation, middle, finished)
    assert finished == 2
    assert gap(last.state, states[-1][0]) == 0


def test_rows_count_bytes_and_clients():
    algorithm, six = fedavg(logistic(), FIT), {"cohort_size": 6, "num_rounds": 2}
    result = train(algorithm, federation(), **six)
    row, model = result.history[-1], tree.num_bytes(result.state.server.model)
    assert (row["clients"], row["rejected"]) == (5, 0), "client 1 has nothing to train on"
    assert (row["bytes_down"], row["bytes_up"]) == (6 * model, 5 * model)
    data = federation()
    broken = replace(data, train=data.train._replace(x=data.train.x * jnp.inf))
    row = train(algorithm, broken, **six).history[-1]
    assert (row["clients"], row["rejected"]) == (0, 5)
    assert row["bytes_up"] == 5 * model, "what is rejected was sent all the same"
    assert np.isnan(row["train_loss"]), "nobody told of a loss"


def test_gradient_of_the_mean_client():
    """FedAvg with one step on everything is gradient descent on the union of the data."""
    task, pool = logistic(), federation().train
    state, (report,) = play(fedavg(task, FIT), pool, [range(6)])
    model = task.init(jax.random.key(0))
    whole = task_batch(task, pool)
    loss, _, grads = gradient(task.loss, model, whole, jax.random.key(0))
    expected = tree.add_scaled(model.params, -0.1, grads)
    assert gap(state.server.model.params, expected) < 1e-6
    assert float(report.metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)


def task_batch(task: Task, pool: Any) -> Any:
    """All of a pool as one batch."""
    del task
    count = int(pool.sizes.sum())
    everyone = pool._replace(sizes=jnp.array([count])).of(jnp.int32(0))
    return everyone.take(jnp.arange(count), jnp.ones(count))
