"""A head of the client's own beside the model: FedROD."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, federation, gap, logistic, play

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, fedrod
from fedjax_kd.core import Algorithm
from fedjax_kd.local import local_training
from fedjax_kd.models.resnet import resnet8
from fedjax_kd.task import from_nnx

FIT = local_training(client_lr=0.1, batch_size=4, epochs=2)
X = jnp.ones((3, FEATURES))


def client(algorithm: Algorithm, state: Any, number: int) -> Any:
    """What a client predicts."""
    own = jax.tree.map(lambda a: a[number], state.clients[0])
    return algorithm.predict(state.server, own, X)


def test_who_was_never_there_predicts_as_the_generic_model():
    task = logistic(hidden=2)
    algorithm = fedrod(task, FIT)
    state, _ = play(algorithm, federation().train, [(0, 4)] * 2)
    generic = task.apply(state.server.model, X)[0]
    newcomer = algorithm.client_init(jax.random.key(9), state.server)
    assert gap(algorithm.predict(state.server, newcomer, X), generic) == 0
    assert gap(client(algorithm, state, 2), generic) == 0
    assert gap(client(algorithm, state, 4), generic) > 1e-2


def test_the_personal_head_moves_nothing_that_is_sent():
    """Whatever the client's own head is, the server gets the same."""
    task, pool = logistic(hidden=2), federation().train
    algorithm = fedrod(task, FIT, gamma=0.0)
    other = algorithm._replace(
        client_init=lambda key, server: jax.tree.map(
            lambda a: a + 3.0, algorithm.client_init(key, server)
        )
    )
    states = [play(a, pool, [(0, 4)])[0] for a in (algorithm, other, fedavg(task, FIT))]
    assert gap(states[0].server, states[1].server) < 1e-6
    assert gap(states[0].server, states[2].server) < 1e-6


def test_personal_logits_fit_the_clients_labels_and_generic_ones_are_balanced():
    """A client of many zeros and few ones: the generic model prefers neither class."""
    data = federation((40,)).train
    y = jnp.asarray(np.repeat([0, 1], [36, 4]).astype(np.int32))
    still = data._replace(x=jnp.zeros_like(data.x), y=y)  # inputs tell nothing
    fit = local_training(client_lr=0.5, batch_size=0, epochs=400)
    algorithm = fedrod(logistic(hidden=2), fit)
    state, _ = play(algorithm, still, [(0,)])
    x, own = jnp.zeros((1, FEATURES)), jax.tree.map(lambda a: a[0], state.clients[0])
    generic = logistic(hidden=2).apply(state.server.model, x)[0][0]
    np.testing.assert_allclose(generic[0], generic[1], atol=1e-2)
    personal = jax.nn.softmax(algorithm.predict(state.server, own, x)[0])
    np.testing.assert_allclose(personal[:2], [0.9, 0.1], atol=1e-2)


def test_a_network_with_normalisation():
    data = federation().train
    x = jnp.broadcast_to(data.x[:, :1, None, None], (len(data.x), 8, 8, 1))
    task = from_nnx(resnet8((8, 8, 1), CLASSES, norm="batch"), example_x=x[:1])
    state, (report,) = play(fedrod(task, FIT), data._replace(x=x), [(0, 4)])
    assert bool(tree.is_finite(state))
    assert float(report.used.sum()) == 2
    assert gap(state.server.model.stats, task.init(jax.random.key(0)).stats) > 1e-3


def test_bad_tasks_and_options_are_said():
    with pytest.raises(ValueError, match=r"gamma is -1.0, but must be >= 0"):
        fedrod(logistic(hidden=2), FIT, gamma=-1.0)
    with pytest.raises(ValueError, match="does not know the shape"):
        fedrod(logistic(hidden=2)._replace(input_types=None), FIT)
    with pytest.raises(ValueError, match="does not give features and logits in one pass"):
        fedrod(logistic(hidden=2)._replace(features_and_logits=None), FIT)
    with pytest.raises(ValueError, match="does not give logits of features"):
        fedrod(logistic(hidden=2)._replace(classify=None), FIT)
