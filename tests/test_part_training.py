"""Parts of a model that are trained while the rest is frozen: FedBABU and FedRep."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import FEATURES, federation, gap, in_round, logistic, normed, play
from test_fedper import whole

from fedjax_kd import tree
from fedjax_kd.algorithms import fedbabu, fedper, fedrep
from fedjax_kd.components.model_parts import combine, other, personal_part
from fedjax_kd.components.part_training import in_turns, of_part
from fedjax_kd.core import Variables
from fedjax_kd.engine.evaluation import has_personal_model
from fedjax_kd.local import Fit, local_training
from fedjax_kd.task import Task

LR = 0.1
FIT = local_training(client_lr=LR, batch_size=0, epochs=3)
DRAGGED = local_training(client_lr=LR, batch_size=0, weight_decay=0.5, client_momentum=0.9)


def descended(task: Task, model: Variables, client: int, layer: int, steps: int) -> Variables:
    """A client's model after gradient steps of one layer alone."""
    data, params = federation(), model.params
    x, y = (a[data.parts[client]] for a in (data.train.x, data.train.y))

    def loss(own: Any) -> jax.Array:
        logits = task.apply(Variables([*params[:layer], own, *params[layer + 1 :]]), x)[0]
        return task.example_loss(logits, y).mean()

    own = params[layer]
    for _ in range(steps):
        own = jax.tree.map(lambda w, g: w - LR * g, own, jax.grad(loss)(own))
    return Variables([*params[:layer], own, *params[layer + 1 :]])


def test_fedrep_trains_the_head_and_then_the_body():
    task = logistic(hidden=2)
    algorithm = fedrep(task, FIT, head_epochs=2)
    state, (report,) = play(algorithm, federation().train, [(4,)])
    expected = descended(task, task.init(jax.random.key(0)), 4, layer=1, steps=2)
    expected = descended(task, expected, 4, layer=0, steps=3)
    own = jax.tree.map(lambda a: a[4], state.clients[0])
    assert gap(combine(own, state.server.base.model), expected) < 1e-6
    assert float(report.metrics["steps"]) == 5


@pytest.mark.parametrize("part", ["head", "body"])
def test_neither_momentum_nor_decay_moves_what_is_frozen(part: str):
    task, data = logistic(hidden=2), federation().train.of(jnp.int32(4))
    head = personal_part(task)
    trained = head if part == "head" else other(head)
    model = task.init(jax.random.key(0))
    fitted = of_part(DRAGGED.but(epochs=3), trained)(
        jax.random.key(1), model, data, task.loss, in_round()
    )
    change = tree.sub(fitted.model, model).params
    moved, still = (1, 0) if part == "head" else (0, 1)
    assert gap(change[still], tree.zeros_like(change[still])) == 0
    assert gap(change[moved], tree.zeros_like(change[moved])) > 1e-3


def test_statistics_belong_to_their_part():
    task, data = normed(), federation().train.of(jnp.int32(4))
    model = task.init(jax.random.key(0))
    everything = jax.tree.map(lambda _: True, model)
    params_alone = everything._replace(stats=jax.tree.map(lambda _: False, model.stats))
    after = {
        stats_too: of_part(FIT, part)(jax.random.key(1), model, data, task.loss, in_round()).model
        for stats_too, part in ((True, everything), (False, params_alone))
    }
    assert gap(after[True].stats, model.stats) > 1e-3
    assert gap(after[False].stats, model.stats) == 0
    assert gap(after[False].params, model.params) > 1e-3


def test_two_trainings_tell_their_steps_and_their_mean_loss():
    task, pool = logistic(), federation().train
    model = task.init(jax.random.key(0))

    def run(fit: Fit, client: int) -> Any:
        data = pool.of(jnp.int32(client))
        return fit(jax.random.key(1), model, data, task.loss, in_round())

    one, three = local_training(client_lr=LR, batch_size=0), FIT
    both, alone = run(in_turns(one, three), 4), run(FIT.but(epochs=4), 4)
    assert gap(both.model, alone.model) < 1e-6
    np.testing.assert_allclose(both.loss, alone.loss, rtol=1e-6)
    assert int(both.steps) == 4
    np.testing.assert_allclose(both.travel, 4 * LR, rtol=1e-6)
    nobody = run(in_turns(one, three), 1)
    assert (float(nobody.loss), int(nobody.steps)) == (0.0, 0)
    assert in_turns(one, three).steps(np.array([5, 0]), np.arange(2), 0).tolist() == [4, 0]


@pytest.mark.parametrize("tunes", ["all", "head", "body"])
def test_fedbabu_tunes_what_it_is_told(tunes: Any):
    task = logistic(hidden=2)
    algorithm = fedbabu(task, FIT, tune_epochs=3, tunes=tunes)
    state, _ = play(algorithm, federation().train, [(0, 4)])
    (clients,), data = state.clients, federation().train.of(jnp.int32(4))
    own = jax.tree.map(lambda a: a[4], clients)
    common = combine(own, state.server.base.model)
    tuned = algorithm.personalise(jax.random.key(5), state.server, own, data)
    if tunes == "all":
        assert gap(tuned, whole(common, 4)) < 1e-6
    else:
        layer = 1 if tunes == "head" else 0
        assert gap(tuned, descended(task, common, 4, layer, steps=3)) < 1e-6
    x = jnp.ones((2, FEATURES))
    logits = algorithm.predict(state.server, tuned, x)
    assert gap(logits, task.apply(tuned, x)[0]) == 0
    assert gap(logits, algorithm.predict(state.server, own, x)) > 1e-4


def test_tuning_may_have_a_learning_rate_of_its_own():
    task, data = logistic(hidden=2), federation().train.of(jnp.int32(4))
    slow, same = (fedbabu(task, FIT, tune_epochs=1, tune_lr=lr) for lr in (0.5 * LR, None))
    server = slow.server_init(jax.random.key(0))
    own = slow.client_init(jax.random.key(1), server)
    start = combine(own, server.base.model)
    half, whole_step = (
        tree.sub(a.personalise(jax.random.key(5), server, own, data), start) for a in (slow, same)
    )
    assert gap(tree.scale(2.0, half), whole_step) < 1e-6
    assert gap(half, tree.zeros_like(half)) > 1e-3


def test_who_has_no_examples_is_not_tuned():
    algorithm = fedbabu(logistic(hidden=2), FIT)
    state, _ = play(algorithm, federation().train, [(0, 4)])
    own = jax.tree.map(lambda a: a[1], state.clients[0])
    data = federation().train.of(jnp.int32(1))
    tuned = algorithm.personalise(jax.random.key(5), state.server, own, data)
    assert gap(tuned, combine(own, state.server.base.model)) == 0


def test_who_is_judged_by_whose_models():
    task, x = logistic(hidden=2), jnp.zeros((2, FEATURES))

    def nothing(model: Variables) -> Variables:
        return jax.tree.map(lambda _: False, model)

    for algorithm, judged in (
        (fedbabu(task, FIT), "clients"),
        (fedbabu(task, FIT, personal=nothing), "clients"),
        (fedbabu(task, FIT, personal=nothing, tune_epochs=0), "server"),
        (fedrep(task, FIT), "clients"),
    ):
        assert algorithm.judged_by == judged
        server = algorithm.server_init(jax.random.key(0))
        newcomer = algorithm.client_init(jax.random.key(1), server)
        assert has_personal_model(algorithm, server, newcomer, x) == (judged == "clients")


def test_fedrep_may_tune_heads_to_the_last_body():
    task = logistic(hidden=2)
    algorithm = fedrep(task, FIT, tune_epochs=2)
    state, _ = play(algorithm, federation().train, [(0, 4)])
    own = jax.tree.map(lambda a: a[4], state.clients[0])
    data = federation().train.of(jnp.int32(4))
    tuned = algorithm.personalise(jax.random.key(5), state.server, own, data)
    expected = descended(task, combine(own, state.server.base.model), 4, layer=1, steps=2)
    assert gap(tuned, expected) < 1e-6


def by_hand(key: Any, model: Any, data: Any, objective: Any, round: Any) -> Any:
    """No local training of this package's."""


WRONG = [
    (fedbabu, {"tunes": "neck"}, "tunes is 'neck', but must be one of all, head, body"),
    (fedbabu, {"tune_epochs": -1}, "tune_epochs is -1, but must be >= 0"),
    (fedbabu, {"tune_lr": 0.0}, r"tune_lr is 0.0, but must be > 0"),
    (fedrep, {"head_epochs": 0}, "head_epochs is 0, but must be >= 1"),
]


@pytest.mark.parametrize(("method", "given", "message"), WRONG)
def test_bad_options_are_said(method: Any, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        method(logistic(hidden=2), FIT, **given)


@pytest.mark.parametrize("method", [fedbabu, fedrep, fedper])
def test_bad_tasks_are_said(method: Any):
    with pytest.raises(ValueError, match="uses no value of the model"):
        method(logistic(), FIT)
    with pytest.raises(ValueError, match="does not know the shape"):
        method(logistic(hidden=2)._replace(input_types=None), FIT)


@pytest.mark.parametrize("method", [fedbabu, fedrep])
def test_training_that_cannot_be_changed_is_said(method: Any):
    with pytest.raises(ValueError, match="was not made by `local_training`, so epochs, steps"):
        method(logistic(hidden=2), Fit(by_hand, FIT.steps))
