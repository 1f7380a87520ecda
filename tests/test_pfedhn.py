"""pFedHN and pFedHN-PC: what a server with a hypernetwork does."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, normed

from fedjax_kd import tree
from fedjax_kd.algorithms.pfedhn import pfedhn
from fedjax_kd.algorithms.pfedhn_pc import pfedhn_pc
from fedjax_kd.components.hypernet import Hypernet, hypernet, hypernet_learner, make_parameters
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Round, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training

SMALL = {"population": 6, "hidden": 3, "layers": 1, "embedding": 2}


FIT = local_training(client_lr=0.1, batch_size=4)


PLAIN = {"server_lr": 1.0, "server_momentum": 0.0, "server_decay": 0.0, "server_clip": 1e6}


CHANGES = {
    "w": np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32),
    "b": np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32),
}


@jax.jit
def stepped(options: dict[str, Any], changes: Any, cohort: Any) -> tuple[Hypernet, Hypernet, Any]:
    """A hypernetwork before and after a step, and how the models that it makes have moved."""
    net = hypernet_learner(**SMALL, **options)
    before = net.init(jax.random.key(0), jax.tree.map(lambda a: a[0], changes))
    round = Round(
        jnp.int32(0),
        cohort,
        (cohort < 6).astype(jnp.float32),
        (cohort < 6).astype(jnp.float32),
        6,
        None,
    )
    after = net.learn(before, changes, round)
    moved = tree.sub(make_parameters(after.net, cohort), make_parameters(before.net, cohort))
    return before.net, after.net, moved


def one_step(changes: Any, cohort: tuple[int, ...], **options: float) -> Any:
    given = {name: np.float32(value) for name, value in (PLAIN | options).items()}
    return stepped(given, changes, np.asarray(cohort, np.int32))


def test_a_cohort_learns_the_mean_of_its_members_steps():
    """Empty places count for nothing, and the others' embeddings stay."""
    slots = np.eye(3, dtype=np.float32)[:2]
    only = [
        jax.tree.map(lambda a, s=s: a * s.reshape(3, *[1] * (a.ndim - 1)), CHANGES) for s in slots
    ]
    before, together, _ = one_step(jax.tree.map(np.add, *only), (4, 1, 6))
    alone = [one_step(only[0], (4, 6, 6))[1], one_step(only[1], (6, 1, 6))[1]]
    assert gap(together, jax.tree.map(lambda a, b: (a + b) / 2, *alone)) < 1e-6
    moved = np.abs(together.embeddings - before.embeddings).max(1) > 0
    np.testing.assert_array_equal(moved, [False, True, False, False, True, False])


def test_steps_make_models_move_along_the_changes():
    """What clients changed, the hypernetwork changes: the sign is the authors'."""
    *_, moved = one_step(CHANGES, (4, 1, 0), server_lr=1e-3)
    assert sum(np.vdot(moved[name], CHANGES[name]) for name in CHANGES) > 0


def test_clipping_and_decay_of_the_server():
    before, after, _ = one_step(CHANGES, (4, 1, 0), server_clip=1e-3)
    squares = [
        np.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    ]
    np.testing.assert_allclose(np.sqrt(sum(squares)), 1e-3, rtol=1e-3)
    zeros = jax.tree.map(np.zeros_like, CHANGES)
    before, after, _ = one_step(zeros, (4, 1, 0), server_decay=0.1)
    assert gap(after, jax.tree.map(lambda a: np.float32(0.9) * a, before)) < 1e-6, "all embeddings"


def test_sizes_and_starts():
    init = jax.jit(partial(hypernet, start="model", **SMALL))
    started = init(jax.random.key(0), {"w": np.ones((4, 3), np.float32)})
    np.testing.assert_array_equal(started.heads.bias["w"], 1)
    types = jax.eval_shape(partial(hypernet, population=50), jax.random.key(0), {"w": jnp.zeros(4)})
    assert types.embeddings.shape == (50, 13)
    assert [layer.kernel.shape for layer in types.trunk] == [(13, 100)] + [(100, 100)] * 3
    assert types.heads.kernel["w"].shape == (100, 4)


def test_who_is_evaluated_with_what():
    """Who was there has a model of its own, the others that of the mean embedding."""
    pool, task, key = federation().train, logistic(2), jax.random.key(0)
    algorithm = pfedhn_pc(task, FIT, **SMALL)
    round = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 6, None)

    @jax.jit
    def run() -> Any:
        server, number = algorithm.server_init(key), jnp.int32(4)
        newcomer = algorithm.client_init(key, server)
        sent = algorithm.broadcast(server, number, round)
        _, client = algorithm.client_update(key, sent, newcomer, pool.of(number), round)
        net = server.learning.net
        mean = net._replace(embeddings=net.embeddings.mean(0, keepdims=True))
        made = make_parameters(net, number[None]), make_parameters(mean, jnp.zeros(1, jnp.int32))
        bodies = (Variables(jax.tree.map(lambda a: a[0], params)) for params in made)
        both = list(zip(bodies, (client, newcomer), strict=True))
        expected = [task.apply(combine(body, kept.model), pool.x)[0] for body, kept in both]
        return expected, [algorithm.predict(server, k, pool.x) for _, k in both], client, newcomer

    expected, predicted, client, newcomer = run()
    assert gap(expected, predicted) < 1e-5
    assert gap(predicted[0], predicted[1]) > 1e-2
    assert (int(client.number), int(newcomer.number)) == (4, -1)
    assert gap(client.model, newcomer.model) > 1e-3, "the head has learnt"


def test_statistics_of_normalisation_are_averaged():
    algorithm, key = pfedhn(normed(), FIT, **SMALL), jax.random.key(0)
    pool, round = (
        federation().train,
        Round(jnp.int32(0), jnp.array([4]), jnp.ones(1), jnp.ones(1), 6, None),
    )

    @jax.jit
    def run() -> tuple[Any, Any, Any]:
        server, number = algorithm.server_init(key), jnp.int32(4)
        client, sent = (
            algorithm.client_init(key, server),
            algorithm.broadcast(server, number, round),
        )
        upload, _ = algorithm.client_update(key, sent, client, pool.of(number), round)
        stacked = jax.tree.map(lambda a: a[None], upload.message.params)
        update = upload.message._replace(params=stacked)
        return (
            server.stats,
            upload.message.stats,
            algorithm.server_update(key, server, update, round),
        )

    before, change, after = run()
    assert gap(after.stats, jax.tree.map(np.add, before, change)) < 1e-6
    assert gap(after.stats, before) > 1e-3


WRONG = [
    ({"population": 0}, "population is 0, but must be >= 1"),
    ({"hidden": -1}, "hidden is -1, but must be >= 0"),
    ({"layers": -1}, "layers is -1, but must be >= 0"),
    ({"embedding": 0}, "embedding is 0, but must be >= 1"),
    ({"server_decay": -1e-3}, "server_decay is -0.001, but must be >= 0"),
    ({"server_clip": -1.0}, "server_clip is -1.0, but must be >= 0"),
    ({"start": "zeros"}, "start is 'zeros', but must be one of random, model"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_options_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pfedhn(logistic(), FIT, **SMALL | given)


def test_federations_and_models_that_do_not_fit():
    with pytest.raises(ValueError, match="population is 5, but the federation has 6 clients"):
        check_algorithm(pfedhn(logistic(), FIT, population=5, hidden=3), federation().train)
    with pytest.raises(TypeError, match="'population'"):
        pfedhn(logistic(), FIT)
    with pytest.raises(ValueError, match="All parameters are personal"):
        pfedhn_pc(logistic(), FIT, **SMALL)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        pfedhn_pc(logistic(2)._replace(input_types=None), FIT, **SMALL)
