"""Tasks, clients and states for tests of methods with several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import CLASSES, federation, start, task_of

from fedjax_kd import losses
from fedjax_kd.core import Algorithm, Batch, Key, Pool, State, Variables
from fedjax_kd.task import Task


def pool_of(xs: Sequence[Any], ys: Sequence[Any]) -> Pool:
    """Clients with the given examples."""
    sizes = np.array([len(y) for y in ys], np.int32)
    rows, starts = np.arange(sizes.sum(), dtype=np.int32), np.cumsum(sizes) - sizes
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    return Pool(jnp.asarray(np.concatenate(xs)), jnp.asarray(np.concatenate(ys)), *owned)


def softmax_regression(inputs: int, classes: int) -> Task:
    """Softmax regression on vectors."""

    def init(key: Key) -> Variables:
        return Variables({"W": jax.random.normal(key, (classes, inputs)), "b": jnp.zeros(classes)})

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        return x @ model.params["W"].T + model.params["b"][None], model.stats

    return task_of(init, apply)


def start_from(algorithm: Algorithm, models: Any, clients: int) -> State:
    """The initial state, but with these models of the clusters."""
    state = start([algorithm], np.zeros(clients))
    own = state.server.own
    params = jax.tree.map(lambda a, new: jnp.asarray(new, a.dtype), own.model.params, models)
    own = own._replace(model=own.model._replace(params=params))
    return state._replace(server=state.server._replace(own=own))


def chosen(algorithm: Algorithm, state: State, pool: Pool, clients: Sequence[int]) -> list[int]:
    """The clusters that clients choose, as their traits tell."""
    numbers = []
    for k in clients:
        data = pool.of(jnp.int32(k))
        client = algorithm.personalise(jax.random.key(0), state.server, (), data)
        found = algorithm.traits(state.server, client)["cluster"]
        assert int(found.sum()) == 1
        numbers.append(int(found.argmax()))
    return numbers


def on_vectors(width: int, apply: Any, example_loss: Any) -> Task:
    """A task whose parameters are one vector."""

    def init(key: Key) -> Variables:
        return Variables(jax.random.normal(key, (width,)))

    def loss(model: Variables, batch: Batch, key: Key | None) -> tuple[jax.Array, Any]:
        values = example_loss(apply(model, batch.x)[0], batch.y)
        return losses.batch_mean(values, batch), model.stats

    return task_of(init, apply)._replace(loss=loss, example_loss=example_loss)


def linear_regression(inputs: int) -> Task:
    """Linear regression without a bias."""
    return on_vectors(inputs, lambda v, x, key=None: (x @ v.params, v.stats), losses.squared_error)


def with_params(state: State, params: Any) -> State:
    """The state whose server's models have these parameters."""
    model = state.server.model._replace(params=jnp.asarray(params))
    return state._replace(server=state.server._replace(model=model))


def two_kinds(clients: int = 6) -> Pool:
    """Clients whose classes are called otherwise from one to the next."""
    pool = federation((8,) * clients).train
    y = (pool.y + jnp.repeat(jnp.arange(clients, dtype=jnp.int32) % 2, 8)) % CLASSES
    return pool._replace(y=y)
