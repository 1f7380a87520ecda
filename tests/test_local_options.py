"""Local training with other options, steps by client and round, rates that fall within a round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, in_round, logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.local import Fit, local_change, local_training
from fedjax_kd.losses.objectives import plus
from fedjax_kd.train import train

FIT = local_training(client_lr=0.1, batch_size=4)


def fitted(fit: Fit, number: int, round: Any = None, objective: Any = None) -> Any:
    """A client's local training."""
    task, data = logistic(), federation().train.of(jnp.int32(number))
    start = task.init(jax.random.key(0))
    loss = task.loss if objective is None else objective
    return jax.jit(lambda: fit(jax.random.key(1), start, data, loss, round or in_round()))()


def test_steps_may_depend_on_client_and_round():
    fit = FIT.but(steps=lambda client, round: 1 + client % 3 + 2 * round)
    for number in (0, 4, 5):
        for round in (0, 3):
            found = fitted(fit, number, in_round(round))
            assert int(found.steps) == 1 + number % 3 + 2 * round
    assert int(fitted(fit, 1).steps) == 0, "without examples there are no steps"
    # The host plans with the same numbers.
    history = train(fedavg(logistic(), fit), federation(), num_rounds=2, cohort_size=6).history
    each = [1 + k % 3 for k in (0, 2, 3, 4, 5)]
    assert [row["steps"] for row in history[1:]] == [sum(each), sum(each) + 2 * len(each)]


def test_the_learning_rate_falls_within_a_round():
    """S rates from lr on, step by step towards lr_end times it; their sum is the travel."""
    steps, lr, end = 4, 0.1, 0.2
    task = logistic()

    def linear(model: Any, batch: Any, key: Any) -> Any:
        return sum(a.sum() for a in jax.tree.leaves(model.params)), model.stats

    fit = local_training(client_lr=lr, steps=steps, lr_end=end)
    found = fitted(fit, 4, objective=linear)
    rates = [lr * (1 - i / steps * (1 - end)) for i in range(steps)]
    moved = jax.tree.leaves(task.init(jax.random.key(0)))[0] - jax.tree.leaves(found.model)[0]
    np.testing.assert_allclose(moved, sum(rates), rtol=1e-5)
    np.testing.assert_allclose(found.travel, sum(rates), rtol=1e-5)
    constant = fitted(fit.but(lr_end=1.0), 4)
    assert gap(constant.model, fitted(fit.but(lr_end=None), 4).model) < 1e-6
    assert float(fitted(fit, 1).travel) == 0
    with pytest.raises(ValueError, match=r"lr_end is 1.5, but must be in \[0, 1\]"):
        local_training(lr_end=1.5)


def test_an_objective_may_ask_for_the_step():
    seen_at = jnp.arange(5.0)

    def by_step(model: Any, batch: Any, key: Any, step: Any) -> Any:
        return seen_at[step] * sum(a.sum() for a in jax.tree.leaves(model.params)), model.stats

    for fit in (
        local_training(client_lr=1.0, steps=3),
        local_training(client_lr=1.0, epochs=3, batch_size=0),
    ):
        for objective in (by_step, plus(by_step, lambda model: 0.0)):
            found = fitted(fit, 4, objective=objective)
            start = jax.tree.leaves(logistic().init(jax.random.key(0)))[0]
            np.testing.assert_allclose(
                start - jax.tree.leaves(found.model)[0], 0 + 1 + 2, rtol=1e-5
            )


def test_local_training_with_another_option():
    other = FIT.but(client_lr=0.5)
    assert (other.options or {})["client_lr"] == 0.5
    assert other.batch_size == FIT.batch_size == 4
    assert (
        gap(fitted(other, 4).model, fitted(local_training(client_lr=0.5, batch_size=4), 4).model)
        == 0
    )
    with pytest.raises(ValueError, match="was not made by `local_training`, so batch_size"):
        FIT._replace(options=None).but(batch_size=2)
    with pytest.raises(ValueError, match="batch_size is -1"):
        FIT.but(batch_size=-1)


def test_local_change_is_what_fedavg_sends():
    task, data = logistic(), federation().train.of(jnp.int32(4))
    model, round = task.init(jax.random.key(0)), in_round()
    upload, after = local_change(FIT)(jax.random.key(1), model, data, task.loss, round)
    expected, _ = fedavg(task, FIT).client_update(jax.random.key(1), model, (), data, round)
    assert gap(upload, expected) == 0
    assert gap(after.model, fitted(FIT, 4).model) < 1e-6
