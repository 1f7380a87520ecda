"""Parts of the contract that single methods or users ask for: bytes, facts, rounds, local steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, logistic, play
from flax import nnx

from fedjax_kd.algorithms import REGISTRY, fedavg, fedprox
from fedjax_kd.core import Algorithm, Upload, Variables, Wire, mean, stack
from fedjax_kd.data.sampling import Cohort
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.options import extends, fixed_local
from fedjax_kd.task import from_nnx
from fedjax_kd.train import train

FIT = local_training(client_lr=0.1, batch_size=4)


def counting(votes: Any = None) -> Algorithm:
    """FedAvg whose client k says that it sent 100 k + 1 bytes and received 7."""
    base = fedavg(logistic(), FIT)

    def client_update(*args: Any) -> tuple[Upload, Any]:
        upload, client = base.client_update(*args)
        number = args[3].client
        weight = upload.weight if votes is None else votes(number)
        return upload._replace(weight=weight, wire=Wire(up=100 * number + 1, down=7)), client

    return base._replace(client_update=client_update)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk": [1, 3]},
        pytest.param({"chunk": 1}, marks=pytest.mark.thorough),
        pytest.param({"engine": "python"}, marks=pytest.mark.thorough),
    ],
)
def test_bytes_are_summed_over_a_ragged_voting_cohort(options: dict[str, Any]):
    """By hand: client 1 has no examples, is asked and sends nothing; votes change nothing."""
    cohorts = [[0, 4, 1], [5, 2, 3]]
    result = train(
        counting(lambda number: number.astype("float32") ** 2),
        federation(),
        num_rounds=2,
        cohort_size=3,
        sampler=lambda rng, number: np.array(cohorts[number]),
        **options,
    )
    up = [row["bytes_up"] for row in result.history[1:]]
    down = [row["bytes_down"] for row in result.history[1:]]
    assert up == [(100 * 0 + 1) + (100 * 4 + 1), (100 * 5 + 1) + (100 * 2 + 1) + (100 * 3 + 1)]
    assert down == [3 * 7, 3 * 7]


def test_bytes_without_a_count_are_those_of_the_types():
    result = train(fedavg(logistic(), FIT), federation(), num_rounds=2, cohort_size=6)
    model = 4 * (4 * 3 + 3)
    for row in result.history[1:]:
        assert (row["bytes_down"], row["bytes_up"]) == (6 * model, 5 * model)


def test_rejected_uploads_have_crossed_the_wire():
    base = counting()

    def broken(*args: Any) -> Any:
        upload, client = base.client_update(*args)
        lost = jnp.where(args[3].client == 4, jnp.nan, 0.0)
        return upload._replace(message=jax.tree.map(lambda a: a + lost, upload.message)), client

    everyone = {"num_rounds": 1, "cohort_size": 6}
    last = train(base._replace(client_update=broken), federation(), **everyone).history[-1]
    assert (last["rejected"], last["bytes_up"]) == (1, 100 * (0 + 2 + 3 + 4 + 5) + 5)


class Seen(NamedTuple):
    """What a server was told of the last round."""

    model: Any
    votes: Any
    present: Any


def test_votes_stand_beside_presence():
    """In the order of the cohort, for servers that look at each upload."""
    base = fedavg(logistic(), FIT)

    def server_update(key: Any, server: Seen, update: Any, round: Any) -> Seen:
        assert round.votes.shape == round.present.shape == round.cohort.shape
        told = (
            jnp.zeros(8).at[round.cohort].set(a, mode="drop") for a in (round.votes, round.present)
        )
        return Seen(server.model, *told)

    algorithm = base._replace(
        server_init=lambda key: Seen(logistic().init(key), jnp.zeros(8), jnp.zeros(8)),
        broadcast=lambda server, number, round: server.model,
        aggregate=stack,
        server_update=server_update,
        predict=lambda server, client, x: logistic().apply(server.model, x)[0],
    )
    for how in ({}, {"chunk": 1}, {"places": 5}):
        state, _ = play(algorithm, federation().train, [(4, 1, 3)], **how)
        np.testing.assert_array_equal(state.server.votes[:6], [0, 0, 0, 5, 12, 0])
        np.testing.assert_array_equal(state.server.present[:6], [0, 0, 0, 1, 1, 0])


def test_a_broadcast_may_depend_on_the_round():
    base = fedavg(logistic(), FIT)

    def broadcast(server: Any, number: Any, round: Any) -> Any:
        return jax.tree.map(lambda a: a * jnp.where(round.number < 1, 0, 1), server.model)

    state, _ = play(base._replace(broadcast=broadcast), federation().train, COHORTS[:1])
    other, _ = play(base, federation().train, COHORTS[:1])
    assert gap(state.server.model, other.server.model) > 1e-3


def test_facts_of_a_sampler_become_columns():
    def sampler(rng: np.random.Generator, number: int) -> Cohort:
        return Cohort(rng.choice(6, 3, replace=False), {"simulated_seconds": 1.5 * (number + 1)})

    options = {"num_rounds": 4, "cohort_size": 3, "eval_every": 2, "dropout_rate": 0.5, "seed": 1}
    history = train(fedavg(logistic(), FIT), federation(), sampler=sampler, **options).history
    assert [row["simulated_seconds"] for row in history[1:]] == [1.5, 3.0, 4.5, 6.0]
    asked = [row["no_answer"] + row["bytes_down"] / 60 for row in history[1:]]
    assert asked == [3.0] * 4
    assert 0 < sum(row["no_answer"] for row in history[1:]) < 12


def test_facts_must_be_the_same_in_every_round():
    def sampler(rng: np.random.Generator, number: int) -> Cohort:
        return Cohort(np.arange(3), {f"round_{number}": 1.0})

    with pytest.raises(ValueError, match=r"tells \['round_1'\] of a round, but \['round_0'\]"):
        train(fedavg(logistic(), FIT), federation(), sampler=sampler, num_rounds=2, cohort_size=3)


@extends(fedavg, fixes_local=["epochs"])
def twice(task: Any, fit: Any, **options: Any) -> Algorithm:
    """Two passes over the data, whatever is asked for."""
    return fedavg(task, fit.but(epochs=2), **options)


@extends(twice)
def twice_again(task: Any, fit: Any, **options: Any) -> Algorithm:
    """A method on top of it."""
    return twice(task, fit, **options)


@pytest.mark.parametrize("method", [twice, twice_again])
def test_what_a_method_fixes_is_never_ignored_in_silence(method: Any, monkeypatch: Any):
    assert fixed_local(method) == ("epochs",)
    assert method(logistic(), FIT).aggregate == mean
    with pytest.raises(ValueError, match="sets epochs of the local training itself"):
        method(logistic(), local_training(epochs=3))
    with pytest.raises(ValueError, match="sets epochs of the local training itself"):
        method(logistic(), fit=local_training(epochs=3))


def test_what_a_method_fixes_is_hidden_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    from commandline import command

    from fedjax_kd.runs.build import local_options

    monkeypatch.setitem(REGISTRY, "twice", twice)
    names = [o.name for o in local_options(twice)]
    assert "epochs" not in names
    assert "client_lr" in names
    assert command("run", "twice", "--epochs", "3") == 2
    assert "epochs" in capsys.readouterr().err


def test_the_same_task_on_prepared_inputs():
    data = federation()
    task = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs), prepare=lambda x: 2 * x)
    assert task.on_prepared is not None
    model, x = task.init(jax.random.key(0)), data.test.x[:5]
    assert gap(task.on_prepared.apply(model, 2 * x)[0], task.apply(model, x)[0]) == 0
    augmented = from_nnx(
        lambda rngs: nnx.Linear(4, 3, rngs=rngs),
        augment=lambda key, x: x + 1,
        prepare=lambda x: 2 * x,
    )
    assert augmented.on_prepared is not None
    trained = augmented.on_prepared.apply(model, 2 * x, jax.random.key(1))[0]
    assert gap(trained, task.apply(model, x)[0]) < 1e-6
    assert from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs)).on_prepared is None


def test_personal_methods_are_judged_by_their_clients_models():
    options = {"num_rounds": 4, "cohort_size": 3, "eval_every": 4}
    data, alone = federation((30, 20, 10)), REGISTRY["standalone"](logistic(), FIT)
    assert simulate(alone, data, **options).judged_by == "clients"
    last = train(alone, data, **options).history[-1]
    assert last["judged_accuracy"] == last["personal_accuracy_mean"] != last["test_accuracy"]
    last = train(fedprox(logistic(), FIT), data, **options).history[-1]
    assert last["judged_accuracy"] == last["test_accuracy"]


def test_a_client_may_be_evaluated_with_another_type_than_it_keeps():
    """Clients keep a number; what is evaluated is a model that they make for the occasion."""
    task, base = logistic(), fedavg(logistic(), FIT)

    def client_update(key: Any, message: Any, client: Any, data: Any, round: Any) -> Any:
        upload, _ = base.client_update(key, message, (), data, round)
        return upload, client + 1

    def predict(server: Any, client: Any, x: Any) -> Any:
        own = client if isinstance(client, Variables) else server.model
        return task.apply(own, x)[0]

    algorithm = base._replace(
        client_init=lambda key, server: jnp.int32(0),
        client_update=client_update,
        personalise=lambda key, server, client, data: jax.tree.map(jnp.zeros_like, server.model),
        predict=predict,
    )
    data = federation((30, 20, 10))
    last = train(algorithm, data, num_rounds=3, cohort_size=3).history[-1]
    assert last["test_accuracy"] > 0.5
    assert last["personal_accuracy_mean"] < 0.6, "zeros predict the first class"
