"""Wrappers go around every method, and do to its numbers what they say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, in_round, logistic, play, public, rounds, task_for
from test_contract import build

from fedjax_kd import tree
from fedjax_kd.algorithms import REGISTRY, fedavg, feddf, fedper, scaffold
from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training
from fedjax_kd.runs.wrapper_config import wrapped
from fedjax_kd.wrappers import WRAPPERS, top_k, with_ema, with_krum, with_privacy, with_top_k
from fedjax_kd.wrappers.robust import medians

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)
OPTIONS: dict[str, dict[str, Any]] = {
    "top_k": {"keep": 0.3},
    "privacy": {"clip": 0.5, "noise": 0.1},
    "krum": {"select": 2},
    "ccvr": {"after": 1, "virtual": 4, "head_epochs": 1, "head_batch": 6},
}
# What these cannot do to a method, and say when they are built.
REFUSED = {
    ("ema", "standalone"): "read nothing of the server",
    ("ema", "fedmd"): "read nothing of the server",
    **{
        ("ccvr", name): "holds . models of the task's shapes"
        for name in ("fedper", "pfedhn", "pfedhn_pc", "fedmd", "fedgkt")
    },
}
HEADLESS = "`features` uses every value|does not know the shape|does not give logits of features"


@cache
def clients() -> Federation:
    """The ragged federation, with public inputs."""
    return replace(federation(), public=public())


def around(name: str, algorithm: Algorithm, task: Any, **options: Any) -> Algorithm:
    """A wrapper around an algorithm."""
    return wrapped(algorithm, {name: OPTIONS.get(name, {}) | options}, task, clients())


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", REGISTRY)
def test_types_around_every_method(method: str, wrapper: str):
    data, task = clients(), task_for(method)
    algorithm = build(method)
    plain = check_algorithm(algorithm, data.train, data.public)
    refusal = REFUSED.get((wrapper, method))
    if wrapper == "ccvr" and refusal is None and task.input_types is None:
        refusal = HEADLESS
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            around(wrapper, algorithm, task)
        return
    made = around(wrapper, algorithm, task)
    types = check_algorithm(made, data.train, data.public)
    if wrapper != "ccvr":
        assert (types.message, types.upload.message) == (plain.message, plain.upload.message)
    if wrapper in ("privacy", "median", "krum"):
        assert (types.server, types.client) == (plain.server, plain.client)


METHODS: dict[str, Callable[..., Algorithm]] = {
    "fedavg": lambda task, **options: fedavg(task, FIT, **options),
    "scaffold": lambda task, **options: scaffold(task, FIT, **options),
    "fedper": lambda task, **options: fedper(task, FIT, **options),
    "feddf": lambda task, **options: feddf(
        task, FIT, distil_steps=2, distil_batch=4, eta=0.02, best=False, **options
    ),
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
NEUTRAL: dict[str, dict[str, Any]] = {
    "top_k": {"keep": 1.0},
    "privacy": {"clip": 1e6, "noise": 0.0},
    "krum": {"select": 99},
    "ema": {"beta": 0.0},
    "ccvr": {"after": 99},
}


def made(method: str, **options: Any) -> tuple[Any, Algorithm]:
    """A task with a head, and a method of it."""
    task = logistic(hidden=2)
    return task, METHODS[method](task, **options)


def predictions(algorithm: Algorithm, state: Any) -> Any:
    """What each client would predict."""
    x = federation().test.x[:7]
    (own,) = state.clients
    if not jax.tree.leaves(own):
        return algorithm.predict(state.server, own, x)
    return jax.vmap(lambda client: algorithm.predict(state.server, client, x))(own)


@EVERY_METHOD
@pytest.mark.parametrize("wrapper", NEUTRAL)
def test_a_neutral_wrapper_changes_nothing(method: str, wrapper: str):
    if (wrapper, method) in REFUSED:
        return
    uniform = {"weighting": "uniform"} if wrapper in ("privacy", "krum") else {}
    task, base = made(method, **uniform)
    other = around(wrapper, base, task, **NEUTRAL[wrapper])
    pool = federation().train
    plain, _ = play(base, pool, COHORTS, public=public())
    inside, _ = play(other, pool, COHORTS, public=public())
    assert gap(predictions(base, plain), predictions(other, inside)) < 1e-5


@EVERY_METHOD
def test_the_median_of_two_is_their_mean(method: str):
    task, base = made(method, weighting="uniform")
    pool, cohorts = federation().train, [(0, 4), (4, 5)]
    other = around("median", base, task)
    plain, _ = play(base, pool, cohorts, public=public())
    inside, _ = play(other, pool, cohorts, public=public())
    if method == "feddf":  # its teachers are the median, not the clients' models
        assert gap(predictions(base, plain), predictions(other, inside)) > 1e-6
        return
    assert gap(plain.server, inside.server) < 1e-6


@EVERY_METHOD
@pytest.mark.parametrize("wrapper", ["top_k", "privacy", "median", "krum", "ema"])
def test_chunks_devices_and_the_debug_engine_agree(method: str, wrapper: str):
    task, base = made(method)
    algorithm, pool = around(wrapper, base, task), federation().train
    plain = play(algorithm, pool, COHORTS[:2], public=public())
    for how in ({"chunk": 1, "mesh": make_mesh(2)}, {"debug": True}):
        other = play(algorithm, pool, COHORTS[:2], public=public(), **how)
        # Adam's first steps on the server have the size of eta, whatever the gradient's is.
        assert gap(plain[0], other[0]) < (1e-4 if method == "feddf" else 1e-5)
        for one, two in zip(plain[1], other[1], strict=True):
            counts = [sum(map(np.sum, jax.tree.leaves(r.wire))) for r in (one, two)]
            assert counts[0] == counts[1]


@EVERY_METHOD
def test_nothing_is_lost_by_dropping(method: str):
    """What a client has sent and what it still keeps add up to what it would have sent."""
    _, base = made(method)
    sparse, data = with_top_k(base, clients(), keep=0.2), clients()
    key, number = jax.random.key(0), jnp.int32(4)
    round = in_round(clients=3)
    server = sparse.server_init(key)
    client = sparse.client_init(key, server)
    message = sparse.broadcast(server, number, round)
    first, kept = sparse.client_update(key, message, client, data.train.of(number), round)
    whole, _ = base.client_update(key, message, client.base, data.train.of(number), round)
    assert gap(tree.add(first.message, kept.extra), whole.message) < 1e-6
    numbers = sum(a.size for a in jax.tree.leaves(whole.message))
    sent = sum(int((a != 0).sum()) for a in jax.tree.leaves(first.message))
    assert sent == -(-numbers // 5)
    assert int(first.wire.up) == 8 * sent
    again = kept._replace(base=client.base)
    second, after = sparse.client_update(key, message, again, data.train.of(number), round)
    total = tree.add(first.message, second.message)
    assert gap(tree.add(total, after.extra), tree.scale(2, whole.message)) < 1e-6


def test_a_sparse_message_is_never_larger_than_a_whole_one():
    task, base = made("fedavg")
    data = clients()
    numbers = sum(a.size for a in jax.tree.leaves(task.init(jax.random.key(0))))
    for keep in (0.4, 0.9):
        _, (report,) = play(with_top_k(base, data, keep=keep), data.train, [(0, 4)])
        expected = 8 * -(-numbers * 4 // 10) if keep == 0.4 else 4 * numbers
        np.testing.assert_array_equal(report.wire[0].up, [expected] * 2)


@pytest.mark.parametrize("scope", ["message", "tensor"])
def test_largest_entries_compete_within_the_scope(scope: Any):
    entries = {"a": jnp.arange(1.0, 11.0), "b": -jnp.arange(11.0, 21.0)}
    sent = top_k.largest(entries, 0.2, scope)
    counts = {name: int((a != 0).sum()) for name, a in sent.items()}
    assert counts == ({"a": 0, "b": 4} if scope == "message" else {"a": 2, "b": 2})


def test_zeros_never_travel_and_ties_are_left():
    assert not np.any(top_k.largest(jnp.zeros(10), 0.5))
    tied = top_k.largest(jnp.array([1.0, 1.0, 1.0, 2.0]), 0.5)
    np.testing.assert_array_equal(tied, [0, 0, 0, 2])
    np.testing.assert_array_equal(top_k.largest(jnp.array([1.0, 0.0]), 1.0), [1, 0])


def test_noise_has_the_deviation_that_is_asked_for():
    """On the sum; the same keys give the same noise, others give other noise."""
    task, base = made("fedavg", weighting="uniform")
    pool = federation().train
    calm, loud = (with_privacy(base, clip=0.5, noise=noise) for noise in (0.0, 2.0))
    plain, _ = play(calm, pool, [(0, 4)])
    noisy, _ = play(loud, pool, [(0, 4)])
    again, _ = play(loud, pool, [(0, 4)])
    assert gap(noisy, again) == 0
    difference = tree.sub(noisy.server.model.params, plain.server.model.params)
    draws = np.concatenate([np.ravel(a) for a in jax.tree.leaves(difference)])
    assert 0.5 * 2.0 / 2 * 0.4 < draws.std() < 0.5 * 2.0 / 2 * 1.8
    change = tree.sub(plain.server.model.params, task.init(jax.random.key(0)).params)
    assert float(jnp.sqrt(tree.sq_norm(change))) <= 0.5 + 1e-6


def test_a_fixed_denominator_tells_nothing_about_who_came():
    _, base = made("fedavg", weighting="uniform")
    pool, start = federation().train, logistic(hidden=2).init(jax.random.key(0)).params

    def change(**options: Any) -> Any:
        state, _ = play(with_privacy(base, clip=1e6, noise=0.0, **options), pool, [(0, 4)])
        return tree.sub(state.server.model.params, start)

    assert gap(change(), tree.scale(4 / 2, change(denominator=4.0))) < 1e-6


def test_outliers_do_not_move_a_median():
    values = jnp.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [1e9, -1e9], [0.0, 0.0]])
    present = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(medians(values, present), [2.5, 5.5])
    np.testing.assert_allclose(medians(values, jnp.zeros(5)), [0, 0])


def test_krum_leaves_a_liar_out():
    """One client of four sends a huge change: its vote is gone, also on FedDF's teachers."""
    _, base = made("feddf", weighting="uniform")

    def lying(key: Any, message: Any, client: Any, data: Any, round: Any) -> Any:
        upload, client = base.client_update(key, message, client, data, round)
        liar = jnp.where(data.client == 3, 1e4, 0.0)
        return upload._replace(message=jax.tree.map(lambda a: a + liar, upload.message)), client

    pool, cohort = federation().train, [(0, 3, 4, 5)]
    attacked = base._replace(client_update=lying)
    taken, _ = play(attacked, pool, cohort, public=public())
    safe, _ = play(with_krum(attacked, malicious=1, select=2), pool, cohort, public=public())
    start = logistic(hidden=2).init(jax.random.key(0))
    assert gap(taken.server[0].model, start) > 100
    assert gap(safe.server[0].model, start) < 10


def test_an_average_of_models_predicts_and_does_not_train():
    _, base = made("scaffold")
    averaged, pool = with_ema(base, clients(), beta=0.5), federation().train
    states = [state for state, _ in rounds(averaged, pool, COHORTS)]
    plain = [state for state, _ in rounds(base, pool, COHORTS)]
    assert gap([s.server.base for s in states], [s.server for s in plain]) < 1e-6
    e = base.server_init(jax.random.key(0)).base.model
    for state, own in zip(states, plain, strict=True):
        e = tree.add(tree.scale(0.5, e), tree.scale(0.5, own.server.base.model))
        swapped = own.server._replace(base=own.server.base._replace(model=e))
        x = federation().test.x[:5]
        found = averaged.predict(state.server, (), x)
        assert gap(found, base.predict(swapped, (), x)) < 1e-5


def test_wrappers_go_around_each_other():
    task, base = made("scaffold")
    both = wrapped(base, {"top_k": {"keep": 0.5}, "median": {}}, task, clients())
    by_hand = around("median", around("top_k", base, task, keep=0.5), task)
    pool = federation().train
    assert gap(play(both, pool, COHORTS)[0], play(by_hand, pool, COHORTS)[0]) == 0


WRONG = [
    ("top_k", {"keep": 0.0}, r"keep is 0.0, but must be in \(0, 1\]"),
    ("top_k", {"keep": 1.5}, r"keep is 1.5, but must be in \(0, 1\]"),
    ("top_k", {"scope": "layer"}, "scope is 'layer', but must be one of message, tensor"),
    ("privacy", {"clip": 0.0}, "clip is 0.0, but must be > 0"),
    ("privacy", {"noise": -1.0}, "noise is -1.0, but must be >= 0"),
    ("privacy", {"denominator": 0.0}, "denominator is 0.0, but must be > 0"),
    ("krum", {"malicious": -1}, "malicious is -1"),
    ("krum", {"select": 0}, "select is 0, but must be >= 1"),
    ("ema", {"beta": 1.0}, r"beta is 1.0, but must be in \[0, 1\)"),
    ("ema", {"ema_start": "one"}, "ema_start is 'one', but must be one of model, zero"),
    ("krumm", {}, "There is no wrapper 'krumm'; near it: krum"),
    ("krum", {"f": 1}, "wrapper krum has no option 'f'"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str):
    task, base = made("fedavg")
    with pytest.raises(ValueError, match=message):
        wrapped(base, {name: options}, task, clients())


@pytest.mark.parametrize("name", WRAPPERS)
def test_numeric_options_are_traceable(name: str):
    """A sweep gives traced numbers."""
    task, base = made("fedavg")
    numbers = {
        p.name: p.default
        for p in inspect.signature(WRAPPERS[name]).parameters.values()
        if isinstance(p.default, float)
    }

    @jax.jit
    def run(values: dict[str, Any]) -> Any:
        algorithm = around(name, base, task, **values)
        server = algorithm.server_init(jax.random.key(0))
        client = algorithm.client_init(jax.random.key(0), server)
        number, round = jnp.int32(4), in_round(clients=3)
        message = algorithm.broadcast(server, number, round)
        data = clients().train.of(number)
        upload, _ = algorithm.client_update(jax.random.key(1), message, client, data, round)
        return upload.message, algorithm.predict(server, client, federation().test.x[:2])

    given = OPTIONS.get(name, {})
    traced = {k: given.get(k, v) for k, v in numbers.items()}
    algorithm_values = run(traced)
    assert bool(tree.is_finite(algorithm_values))
