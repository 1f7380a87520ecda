"""FedGKD: which models teach, and who learns nothing from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, in_round, logistic, normed, play

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, fedgkd
from fedjax_kd.components.past_models import LastModels
from fedjax_kd.core import Variables
from fedjax_kd.local import local_training

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)
COHORTS = [(0, 4), (4, 5), (3, 0)]


def test_a_round_of_waiting_is_fedavg_and_the_next_is_not():
    task, pool = logistic(), federation().train
    waiting = fedgkd(task, FIT, gamma=5.0, wait=1)
    for rounds, least, most in ((1, -1.0, 1e-7), (2, 1e-4, np.inf)):
        one, _ = play(waiting, pool, COHORTS[:rounds])
        other, _ = play(fedavg(task, FIT), pool, COHORTS[:rounds])
        assert least < gap(one.server.base.model, other.server.model) <= most


def test_one_model_is_the_one_received_and_pulls_only_after_a_step():
    """At the received model its own distillation has no gradient."""
    task, pool = logistic(), federation().train
    once = local_training(client_lr=0.1, batch_size=0)
    one, _ = play(fedgkd(task, once, gamma=5.0, history=1), pool, COHORTS)
    other, _ = play(fedavg(task, once), pool, COHORTS)
    assert gap(one.server.base.model, other.server.model) < 1e-6
    several, _ = play(fedgkd(task, once, gamma=5.0, history=2), pool, COHORTS)
    assert gap(several.server.base.model, other.server.model) > 1e-4


def test_the_oldest_model_makes_room():
    past = LastModels.of(jnp.float32(1), 2)
    for value, expected in ((3.0, 2.0), (5.0, 4.0), (7.0, 6.0)):
        past = past.then(jnp.float32(value))
        assert past.mean() == expected


def test_statistics_and_counters_keep_their_types():
    model = Variables({"w": jnp.ones(2, jnp.bfloat16)}, {"seen": jnp.uint32(3)})
    past = LastModels.of(model, 3).then(model._replace(stats={"seen": jnp.uint32(6)}))
    mean = past.mean()
    assert jax.tree.map(jnp.result_type, mean) == jax.tree.map(jnp.result_type, model)
    assert int(mean.stats["seen"]) == 4


def test_a_network_with_normalisation():
    state, _ = play(fedgkd(normed(), FIT, history=2), federation().train, COHORTS)
    assert bool(tree.is_finite(state))
    message = fedgkd(normed(), FIT).broadcast(
        fedgkd(normed(), FIT).server_init(jax.random.key(0)), jnp.int32(0), in_round()
    )
    assert gap(message.teacher, message.model) == 0


WRONG = [
    ({"gamma": -0.1}, r"gamma is -0.1, but must be >= 0"),
    ({"tau": 0.0}, r"tau is 0.0, but must be > 0"),
    ({"history": 0}, "history is 0, but must be >= 1"),
    ({"wait": -1}, "wait is -1, but must be >= 0"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_bad_options_are_said(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedgkd(logistic(), FIT, **given)
