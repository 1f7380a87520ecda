"""What wrappers do to numbers: dropping with residuals, noise, robust rules, averages of models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, in_round, logistic, play, public, rounds
from test_wrappers import EVERY_METHOD, made
from wrapping import clients

from fedjax_kd import tree
from fedjax_kd.components.codecs import Sent, codec_of, encoded
from fedjax_kd.components.robust_rules import medians
from fedjax_kd.components.sparsity import largest, sparse_bytes
from fedjax_kd.core import Plan
from fedjax_kd.wrappers import with_ema, with_krum, with_privacy, with_swa, with_top_k


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

    def one(key: jax.Array, vector: jax.Array, number: jax.Array) -> Sent:
        chosen = largest(vector, 0.2)
        return encoded(chosen, sparse_bytes(chosen))

    codec = codec_of(one, scope, raw=False)
    sent, size, _ = codec(jax.random.key(0), entries, jnp.int32(0))
    assert int(size) == 4 * 8
    counts = {name: int((a != 0).sum()) for name, a in sent.items()}
    assert counts == ({"a": 0, "b": 4} if scope == "message" else {"a": 2, "b": 2})


def test_zeros_never_travel_and_ties_are_left():
    assert not np.any(largest(jnp.zeros(10), 0.5))
    tied = largest(jnp.array([1.0, 1.0, 1.0, 2.0]), 0.5)
    np.testing.assert_array_equal(tied, [0, 0, 0, 2])
    np.testing.assert_array_equal(largest(jnp.array([1.0, 0.0]), 1.0), [1, 0])


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


def test_a_mean_of_late_models_predicts_and_does_not_train():
    _, base = made("scaffold")
    averaged, pool = with_swa(base, clients(), start=1, every=2), federation().train
    cohorts = [*COHORTS, *COHORTS[:2]]
    states = [state for state, _ in rounds(averaged, pool, cohorts)]
    plain = [state for state, _ in rounds(base, pool, cohorts)]
    assert gap([s.server.base for s in states], [s.server for s in plain]) < 1e-6
    models = [own.server.base.model for own in plain]
    two = tree.scale(0.5, tree.add(models[1], models[3]))
    x = federation().test.x[:5]
    for state, own, model in zip(states, plain, [*models[:2], models[1], two, two], strict=True):
        swapped = own.server._replace(base=own.server.base._replace(model=model))
        found = averaged.predict(state.server, (), x)
        assert gap(found, base.predict(swapped, (), x)) < 1e-5


def test_a_mean_of_no_models_is_told():
    _, base = made("fedavg")
    averaged = with_swa(base, clients(), start=3)
    with pytest.warns(UserWarning, match="from round 3 on, counted from 0, but there are 3 rounds"):
        averaged.check(Plan(clients().train.x, clients().sizes, range(6), 3, 3))
