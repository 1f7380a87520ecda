"""FedPAV: votes by distance, and distillation of features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, SIZES, dataset, federation, gap, logistic, play, public

from fedjax_kd import tree
from fedjax_kd.algorithms import fedpav, fedper
from fedjax_kd.components.feature_distillation import FeatureDistillation, distil_features
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Round, Variables
from fedjax_kd.data import IidPartitioner
from fedjax_kd.data.federation import federate
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.problems import RETRIEVAL
from fedjax_kd.train import train

FIT = local_training(client_lr=0.3, batch_size=4)
TASK = logistic(hidden=2)


def after(cohorts: Any = COHORTS, **options: Any) -> Any:
    return play(fedpav(TASK, FIT, **options), federation().train, cohorts, public=public())[0]


def test_without_its_own_it_is_fedper():
    plain, _ = play(fedper(TASK, FIT), federation().train, COHORTS)
    assert gap(after(), plain) == 0
    # Without a step, the distilled model is the same average, which is then taken by the server.
    assert gap(after(distil_every=2, distil_steps=0), plain) < 1e-6


def test_votes_by_distance():
    (alone,) = ((4,),)
    assert gap(after([alone], weighting="distance"), after([alone])) < 1e-6
    both = after([(4, 5)], weighting="distance").server.base.model
    single = [after([(k,)]).server.base.model for k in (4, 5)]
    start = fedpav(TASK, FIT).server_init(jax.random.key(0)).base.model
    moves = [
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree.sub(m, start))]) for m in single
    ]
    joint = np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree.sub(both, start))])
    (share, _), *_ = np.linalg.lstsq(np.stack(moves, 1), joint, rcond=None)
    assert 0 < share < 1
    assert share != pytest.approx(SIZES[4] / (SIZES[4] + SIZES[5]), abs=1e-3)
    np.testing.assert_allclose(joint, share * moves[0] + (1 - share) * moves[1], atol=1e-5)


def test_where_nothing_moves_nothing_changes():
    still = local_training(client_lr=1e-30, batch_size=4)
    algorithm = fedpav(TASK, still, weighting="distance")
    state, (report,) = play(algorithm, federation().train, [(4, 5)])
    assert gap(state.server, algorithm.server_init(jax.random.key(0))) < 1e-20
    assert int(report.rejected.sum()) == 0


def test_a_step_of_distillation_by_hand():
    how, rate = {"distil_every": 1, "distil_steps": 1, "distil_batch": 10}, 0.2
    learnt = after([(0, 4)], distil_lr=rate, **how)
    plain = after([(0, 4)])
    start = fedpav(TASK, FIT).server_init(jax.random.key(0))
    teachers = [after([(k,)]).server.base.model for k in (0, 4)]
    x = public().inputs.x  # a batch is all of it, in some order

    def seen(body: Any) -> jax.Array:
        return TASK.features(combine(body, start.initial), x)

    each = [np.asarray(seen(body)) for body in teachers]
    target = np.mean([f / np.linalg.norm(f, axis=1, keepdims=True) for f in each], axis=0)
    body = plain.server.base.model
    grads = jax.grad(lambda body: jnp.square(seen(body) - target).mean())(body)
    expected = tree.add_scaled(body, -rate, grads)
    assert gap(learnt.server.base.model, expected) < 1e-6
    assert gap(expected, body) > 1e-3


def test_distillation_is_due_every_so_many_rounds():
    never, second = after(), after(distil_every=2, distil_lr=0.5, distil_batch=4)
    first = [after(COHORTS[:1], **how) for how in ({}, {"distil_every": 2, "distil_lr": 0.5})]
    assert gap(*first) < 1e-6
    assert gap(never, second) > 1e-3


def test_a_student_comes_near_its_teachers():
    """With the same inputs in every step, the loss falls to that of the mean of the features."""
    x = jax.random.normal(jax.random.key(0), (8, 3))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 3))
    there = jnp.array([1.0, 0.0])
    round = Round(jnp.int32(0), jnp.arange(2), there, there, 2, Public(Stored(x)))
    how = FeatureDistillation(300, 0.3, 8, normalise=False, reader="a test")
    student = distil_features(
        how,
        jax.random.key(2),
        lambda model, x: x @ model.params,
        (Variables(jnp.zeros((3, 3))), Variables(weights)),
        round,
    )
    assert gap(student.params, weights[0]) < 1e-2  # the other one is not present


def test_features_are_what_is_retrieved():
    data = dataset(60)
    data = federate(replace(data, problem=RETRIEVAL), IidPartitioner(num_partitions=4))
    algorithm = fedpav(TASK, FIT, predicts="features")
    how = {"num_rounds": 2, "cohort_size": 2, "chunk": 2}
    row = train(algorithm, data, **how).history[-1]
    assert np.isnan(row["test_loss"])
    assert 0.3 < row["test_rank_1"] <= row["test_rank_5"] <= row["test_rank_10"] <= 1
    logits = train(fedpav(TASK, FIT), data, **how).history[-1]
    assert logits["test_retrieval_map"] != row["test_retrieval_map"]
    assert np.isfinite(logits["test_loss"])


def test_bad_input():
    with pytest.raises(ValueError, match="weighting is 'cosine', but must be one of"):
        fedpav(TASK, FIT, weighting="cosine")
    with pytest.raises(ValueError, match="distil_every is -1, but must be >= 0"):
        fedpav(TASK, FIT, distil_every=-1)
    with pytest.raises(ValueError, match="predicts is 'all', but must be one of"):
        fedpav(TASK, FIT, predicts="all")
    with pytest.raises(ValueError, match="FedPAV"):
        simulate(fedpav(TASK, FIT, distil_every=1), federation(), num_rounds=1, cohort_size=2)
    with pytest.raises(ValueError, match="asks for"):
        simulate(fedpav(TASK, FIT, predicts="features"), federation(), num_rounds=1, cohort_size=2)
