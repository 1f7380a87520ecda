"""FedDF with several architectures, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CPU, FEATURES, federation, gap, logistic, normed, play, start, task_of
from teachers import SHORT, labelled, stored

from fedjax_kd import batching, tree
from fedjax_kd.algorithms import fedavg
from fedjax_kd.algorithms.feddf import feddf, feddf_groups
from fedjax_kd.core import State, Variables
from fedjax_kd.data.public_inputs import MissingError, Public
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.evaluation import make_evaluation
from fedjax_kd.engine.round import make_round
from fedjax_kd.engine.schedule import lay_out
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.train import evaluation_row


@pytest.fixture(autouse=True)
def short_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of turns is a permutation."""
    monkeypatch.setattr(batching, "_SHUFFLE_ROUNDS", 3)


FIT = local_training(client_lr=0.3, batch_size=0, epochs=3)


TASKS = (logistic(2), logistic(3))


GROUP_OF = (0, 0, 0, 1, 1, 1)


APART = Public(stored(), labelled())


@cache
def grouped_round() -> Any:
    """A compiled round of both architectures, at a learning rate."""

    def run(eta: Any, *args: Any) -> Any:
        groups = feddf_groups(TASKS, FIT, eta=eta, best=False, **SHORT)
        members, chunks = [np.arange(3), np.arange(3, 6)], [requested_chunks(CPU, (3,), 3)] * 2
        layout = lay_out(members, 6, 4, chunks, work=[a.work for a in groups])
        return make_round(groups, layout, CPU)(*args)

    return jax.jit(run)


def grouped(cohort: tuple[int, ...], eta: float) -> tuple[Any, Any, Any]:
    """The servers of two architectures before and after a round, and its report."""
    groups, pool = feddf_groups(TASKS, FIT, **SHORT), federation().train
    run, state = partial(grouped_round(), jnp.float32(eta)), start(groups, np.array(GROUP_OF))
    options = {"group_of": GROUP_OF, "public": APART, "places": 4, "run": run, "state": state}
    after, (report,) = play(groups, pool, [cohort], **options)
    return state.server, after.server, report


def test_every_architecture_learns_from_all():
    before, after, report = grouped((0, 2, 4, 5), 0.01)
    _, averaged, _ = grouped((0, 2, 4, 5), 0.0)
    assert report.used.tolist() == [2, 2]
    for g in (0, 1):
        assert gap(averaged[g].model, before[g].model) > 1e-2
        assert gap(after[g].model, averaged[g].model) > 1e-3
    alone = fedavg(TASKS[1], FIT, weighting="uniform")
    state, _ = play(alone, federation().train, [(4, 5)], state=State(before[1], ((),)))
    assert gap(state.server.model, averaged[1].model) < 1e-6


def test_a_group_that_is_not_there_learns_from_the_others():
    before, after, _ = grouped((0, 2), 0.01)
    _, averaged, _ = grouped((0, 2), 0.0)
    assert gap(averaged[1], before[1]) == 0
    assert gap(averaged[0], before[0]) > 1e-2
    assert gap(after[1], before[1]) > 1e-3
    assert bool(tree.is_finite(after))


def test_each_client_is_evaluated_with_its_groups_model():
    data = federation()
    simulation = simulated(APART, feddf_groups(TASKS, FIT, **SHORT))
    state = initial_state(simulation)
    seen = make_evaluation(simulation, state)(state)
    row = evaluation_row(seen, simulation)
    right = np.array(
        [
            np.asarray(task.apply(server.model, data.test.x)[0].argmax(-1))
            == np.asarray(data.test.y)
            for task, server in zip(TASKS, state.server, strict=True)
        ]
    )
    assert [row[f"group_{g}_accuracy"] for g in (0, 1)] == pytest.approx(right.mean(1).tolist())
    assert row["test_accuracy"] == pytest.approx(right.mean())
    own = data.client_test
    rows = [
        np.asarray(own.rows)[int(a) : int(a) + int(n)]
        for a, n in zip(own.starts, own.sizes, strict=True)
    ]
    scores = [right[g, ids].sum() for g, ids in zip(GROUP_OF, rows, strict=True)]
    np.testing.assert_array_equal(seen.clients["accuracy"][0], scores)
    assert seen.personal is None


def simulated(public: Any, groups: Any) -> Any:
    return simulate(
        groups,
        replace(federation(), public=public),
        num_rounds=1,
        cohort_size=2,
        group_of=None if len(groups) == 1 else np.array(GROUP_OF),
        chunk=1,
    )


@pytest.mark.parametrize(
    ("public", "options", "words"),
    [
        (None, {}, "FedDF needs public inputs"),
        (Public(stored()), {"best": True}, "needs labelled examples of the server"),
        (Public(stored()), {"drop_worst": True}, "needs labelled examples of the server"),
        (Public(stored()), {"votes": "accuracy"}, "needs labelled examples of the server"),
        (Public(stored()), {"adversarial": 1}, "inputs are Stored, which cannot be trained"),
        (
            Public(stored(), labelled()._replace(y=jnp.zeros((30, 2)))),
            {},
            "have no classes, by which",
        ),
    ],
)
def test_what_is_missing_is_said_when_it_is_built(public: Any, options: Any, words: str):
    with pytest.raises(MissingError, match=words):
        simulated(public, [feddf(logistic(2), FIT, **SHORT | options)])


def test_groups_must_know_the_same_classes():
    four = task_of(
        lambda key: Variables(jnp.zeros((FEATURES, 4))),
        lambda model, x, key=None: (x @ model.params, ()),
    )
    with pytest.raises(MissingError, match="models for the same classes"):
        simulated(APART, feddf_groups([logistic(2), four], FIT, **SHORT))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distil_steps": -1}, "distil_steps is -1, but must be >= 0"),
        ({"distil_batch": 0}, "distil_batch is 0, but must be >= 1"),
        ({"patience": 0}, "patience is 0"),
        ({"adversarial": 0}, "adversarial is 0"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"tau": 0.0}, "tau is 0.0, but must be > 0"),
        ({"scheme": "models"}, "scheme is 'models', but must be one of logits"),
        ({"votes": "examples"}, "votes is 'examples', but must be one of uniform"),
        ({"weighting": "size"}, "weighting is 'size'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        feddf(logistic(2), FIT, **options)


def test_batch_normalisation_of_one_input_is_an_error():
    with pytest.raises(ValueError, match="distil_batch is 1, but the network has batch norm"):
        feddf_groups([logistic(), normed()], FIT, distil_batch=1)
    feddf(logistic(), FIT, distil_batch=1)
