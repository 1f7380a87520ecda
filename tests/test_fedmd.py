"""FedMD: whose logits are averaged, of which inputs, and what clients learn from them."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, Normed, federation, gap, logistic, public, rounds, start
from flax import nnx

from fedjax_kd import losses
from fedjax_kd.algorithms.fedmd import fedmd, fedmd_groups
from fedjax_kd.components.consensus import Consensus, public_lessons
from fedjax_kd.core import Round, State, Variables
from fedjax_kd.data.public_inputs import MissingError, Noise, Public, Stored
from fedjax_kd.engine.validation import check_algorithm, check_groups
from fedjax_kd.local import local_training
from fedjax_kd.task import Task, from_nnx

FIT = local_training(client_lr=0.1, batch_size=0)
# All inputs are in one step: what a client does depends on no key.
ONE_STEP = {"classes": CLASSES, "alignment": 6, "public_batch": 10, "public_lr": 0.05}
KEY, GROUP_OF = jax.random.key(7), np.array([0, 0, 0, 1, 1, 1])
ROUND = Round(jnp.int32(1), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 6, public())


def tasks() -> tuple[Task, Task]:
    """Of clients 0 to 2, and of clients 3 to 5."""
    return logistic(), logistic(hidden=2)


@cache
def played() -> list[State]:
    """Two architectures, before and after two rounds; client 1 has no examples."""
    groups = fedmd_groups(tasks(), FIT, **ONE_STEP)
    how = {"public": public(), "group_of": GROUP_OF}
    after = rounds(groups, federation().train, [(0, 4, 1), (0, 3, 4)], **how)
    return [start(groups, GROUP_OF), *(state for state, _ in after)]


def model_of(state: State, number: int) -> Variables:
    group, place = divmod(number, 3)
    return jax.tree.map(lambda a: a[place], state.clients[group].model)


@jax.jit
def revisited(model: Variables) -> Variables:
    """Client 0 after its own training."""
    return FIT(KEY, model, federation().train.of(jnp.int32(0)), logistic().loss, ROUND).model


def digested(task: Task, model: Variables, consensus: Consensus, **options: Any) -> Variables:
    lessons = public_lessons("FedMD", task, **ONE_STEP | options)
    return jax.jit(lambda *given: lessons.digest(KEY, *given, ROUND))(model, consensus)


def inputs(seed: jax.Array) -> jax.Array:
    return public().inputs.draw(jax.random.key(seed), ONE_STEP["alignment"])


@pytest.mark.parametrize(("number", "cohort"), [(1, (0, 4)), (2, (0, 3, 4))])
def test_consensus_is_the_mean_of_those_who_are_there(number: int, cohort: tuple[int, ...]):
    """Over both architectures, of the same inputs, by the models that clients end with."""
    state, before = played()[number], played()[number - 1]
    x = inputs(state.server.seed)
    said = [tasks()[who // 3].apply(model_of(state, who), x)[0] for who in cohort]
    np.testing.assert_allclose(state.server.logits, np.mean(said, 0), atol=1e-5)
    assert state.server.seed == before.server.next_seed != state.server.next_seed
    assert bool(state.server.known)


def test_clients_digest_then_revisit():
    """But there is nothing to digest in the first round."""
    initial, first, second = played()
    assert gap(model_of(first, 0), revisited(model_of(initial, 0))) < 1e-6
    after_digest = digested(logistic(), model_of(first, 0), first.server)
    assert gap(model_of(second, 0), revisited(after_digest)) < 1e-6
    assert gap(model_of(second, 0), revisited(model_of(first, 0))) > 0.01


def test_a_step_towards_the_consensus_by_hand():
    """Adam's first step follows the signs of the gradient, and that of L1 the signs of errors."""
    _, first, _ = played()
    x, model = np.asarray(inputs(first.server.seed)), model_of(first, 0)
    errors = np.sign(logistic().apply(model, x)[0] - first.server.logits)
    moved = digested(logistic(), model, first.server).params[0]
    step = {name: np.asarray(moved[name] - model.params[0][name]) for name in "wb"}
    np.testing.assert_allclose(step["w"], -0.05 * np.sign(x.T @ errors), atol=1e-5)
    np.testing.assert_allclose(step["b"], -0.05 * np.sign(errors.sum(0)), atol=1e-5)


def test_digest_by_divergence():
    _, first, _ = played()
    x, model = inputs(first.server.seed), model_of(first, 0)
    closer = digested(logistic(), model, first.server, distance="kl", digest_epochs=20)
    before, after = (
        losses.kl_divergence(logistic().apply(m, x)[0], first.server.logits).mean()
        for m in (model, closer)
    )
    assert after < 0.5 * before


def test_a_consensus_is_about_inputs_as_stored():
    def build(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    as_stored, augmented = from_nnx(build), from_nnx(build, augment=lambda key, x: 0 * x)
    model, (_, first, _) = as_stored.init(KEY), played()
    one, other = (digested(task, model, first.server) for task in (as_stored, augmented))
    assert gap(one, other) == 0


def test_transfer_is_for_those_who_were_never_there():
    lessons = public_lessons("FedMD", logistic(), **ONE_STEP, transfer_epochs=5)
    transfer = jax.jit(lambda model, wanted: lessons.transfer(KEY, model, wanted, ROUND))
    model = logistic().init(KEY)
    assert gap(transfer(model, jnp.bool_(False)), model) == 0
    x, y = public().inputs
    before, after = (
        losses.cross_entropy(logistic().apply(m, x)[0], y).mean()
        for m in (model, transfer(model, jnp.bool_(True)))
    )
    assert after < before - 0.1
    (flags,) = {tuple(s.clients[0].trained.tolist()) for s in played()[1:]}
    assert flags == (True, False, False), "clients 0, 1 without examples, and 2"


def test_more_inputs_than_there_are():
    lessons = public_lessons("FedMD", logistic(), **ONE_STEP | {"alignment": 25})
    said = jax.eval_shape(lambda: lessons.judge(logistic().init(KEY), lessons.nothing(KEY), ROUND))
    assert said.shape == (25, CLASSES)


def test_what_a_federation_has_to_have():
    pool = federation().train
    with pytest.raises(MissingError, match="FedMD needs public inputs"):
        check_algorithm(fedmd(logistic(), FIT, **ONE_STEP), pool)
    with_transfer = fedmd(logistic(), FIT, **ONE_STEP, transfer_epochs=1)
    noise = Noise(jnp.float32(-1), jnp.float32(1), (FEATURES,))
    for source in (noise, Stored(public().inputs.x)):
        with pytest.raises(MissingError, match="transfer_epochs=1 needs labels"):
            check_algorithm(with_transfer, pool, Public(source))
    other = from_nnx(lambda rngs: nnx.Linear(FEATURES, CLASSES + 1, rngs=rngs))
    with pytest.raises(TypeError, match="take models for the same classes"):
        check_groups(fedmd_groups([logistic(), other], FIT, **ONE_STEP), pool, public())


WRONG = [
    ({"distance": "l2"}, "distance is 'l2', but must be one of l1, kl"),
    ({"weighting": "none"}, "weighting is 'none', but must be"),
    ({"alignment": 0}, "alignment is 0, but must be >= 1"),
    ({"public_batch": 0}, "public_batch is 0, but must be >= 1"),
    ({"public_batch": 1}, "public_batch is 1, but the network has batch normalisation"),
    ({"transfer_epochs": -1}, "transfer_epochs is -1, but must be >= 0"),
    ({"digest_epochs": 0}, "digest_epochs is 0, but must be >= 1"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_options_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedmd(from_nnx(Normed), FIT, **ONE_STEP | given)
