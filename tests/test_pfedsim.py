"""pFedSim: golden vectors of one round after the warm-up, bad input, and who rests."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, SIZES, federation, logistic, play, rounds, start, task_of
from test_golden import one_row_a_client
from vectors import golden

from fedjax_kd.algorithms import pfedsim
from fedjax_kd.core import Key, Round, Variables
from fedjax_kd.data.public_inputs import MissingError
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.task import Task

ALMOST_ONE = {"rtol": 1e-4}  # 1 - 0.9999 in float32
FIT = local_training(client_lr=0.1, batch_size=4)


def of_vectors(vectors: dict[str, np.ndarray]) -> Task:
    """A body of which nothing is asked, and a dense head."""
    _, classes, width = vectors["in_sim_classifier"].shape

    def features(model: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        return jnp.broadcast_to(model.params["base"].sum() * x[:, :1], (len(x), width))

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        return features(model, x) @ model.params["head"], model.stats

    base = jnp.zeros(vectors["in_sim_base"].shape[1:], jnp.float32)
    nothing = Variables({"base": base, "head": jnp.zeros((width, classes), jnp.float32)})
    return task_of(lambda key: nothing, apply)._replace(
        features=features, input_types=jax.ShapeDtypeStruct((2, 1), jnp.float32)
    )


def test_the_round_of_the_vectors():
    vectors = golden("server_rules")
    heads = jnp.asarray(vectors["in_sim_classifier"]).transpose(0, 2, 1)
    models = {"base": jnp.asarray(vectors["in_sim_base"]), "head": heads}
    clients = len(heads)

    def sent(key: Key, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        own = jax.tree.map(lambda a: a[data.client], models)
        return Fitted(Variables(own), jnp.float32(0), jnp.int32(1), jnp.float32(1))

    algorithm = pfedsim(of_vectors(vectors), sent, population=clients, warmup=0)
    before = start([algorithm], np.zeros(clients))
    known = before.server._replace(models=Variables(models), known=jnp.ones(clients, bool))
    pool = one_row_a_client(clients)
    cohort = vectors["in_sim_selected"].tolist()
    ((after, _),) = rounds(algorithm, pool, [cohort], state=before._replace(server=known))
    similarity = np.array(after.server.similarity)
    np.fill_diagonal(similarity, vectors["out_sim_matrix"].diagonal())
    np.testing.assert_allclose(similarity, vectors["out_sim_matrix"], rtol=1e-5, atol=1e-6)
    for k in range(clients):
        received = algorithm.broadcast(after.server, jnp.int32(k), Round.first())
        np.testing.assert_allclose(
            received.params["base"], vectors["out_sim_base"][k], **ALMOST_ONE
        )
        np.testing.assert_array_equal(received.params["head"], heads[k])
        share = algorithm.traits(after.server, jnp.int32(k))["own_share"]
        np.testing.assert_allclose(share, vectors["out_sim_alpha"][k, k], **ALMOST_ONE)


def test_who_is_in_no_cohort_after_the_warm_up_rests_with_the_global_model():
    pool = federation().train
    method = pfedsim(logistic(hidden=2), FIT, population=len(SIZES), warmup=1)
    after, _ = play(method, pool, [(0, 1), (0, 2)])
    x = pool.x[:3]
    own = [method.predict(after.server, jnp.int32(k), x) for k in (-1, 0, 1, 2)]
    newcomer, asked, earlier, other = (np.asarray(logits) for logits in own)
    np.testing.assert_array_equal(earlier, newcomer)
    assert np.abs(asked - newcomer).max() > 1e-3
    assert np.abs(other - asked).max() > 1e-3


def test_other_populations_are_refused_with_the_right_number():
    method = pfedsim(logistic(hidden=2), FIT, population=len(SIZES) - 1, warmup=0)
    with pytest.raises(MissingError, match=f"federation has {len(SIZES)} clients"):
        play(method, federation().train, COHORTS)


def test_equal_heads_do_not_weigh_infinitely():
    method = pfedsim(logistic(hidden=2), FIT, population=3)
    state = start([method], np.zeros(3))
    alike = state.server._replace(known=jnp.ones(3, bool), similarity=jnp.ones((3, 3)))
    received = method.broadcast(alike, jnp.int32(1), Round.first()._replace(number=jnp.int32(99)))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(received))
    assert float(method.traits(alike, jnp.int32(1))["own_share"]) == pytest.approx(1 / 3)
