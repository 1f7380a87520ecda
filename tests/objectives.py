"""What a client minimises, looked at from outside: its value and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import task_of

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Data, Key, Round, Variables
from fedjax_kd.local import Fitted
from fedjax_kd.losses.objectives import Objective, gradient
from fedjax_kd.task import Task

FILLING = 3  # rows of a batch that count nothing


def wide(a: np.ndarray) -> jax.Array:
    return jnp.asarray(a, jnp.float64 if a.dtype.kind == "f" else jnp.int32)


def local_loss(
    make: Callable[[Any], Algorithm],
    received: Variables,
    model: Any,
    x: Any,
    y: Any,
    *,
    client: Any = (),
) -> tuple[jax.Array, Any]:
    """What a client would minimise, at ``model``: its value on all rows, and its gradient."""
    numbers = jnp.arange(len(y), dtype=jnp.int32)
    data = Data(x, y, numbers, jnp.int32(0), jnp.int32(len(y)))

    def look(key: Key, start: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
        positions = jnp.arange(len(y) + FILLING, dtype=jnp.int32)
        batch = data.take(positions, (positions < len(y)).astype(jnp.float32))
        value, stats, grads = gradient(loss, Variables(model, start.stats), batch, key)
        moved = Variables(tree.sub(start.params, grads), stats)
        return Fitted(moved, value, jnp.int32(1), jnp.float32(1))

    round = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 1, None)
    update = jax.jit(lambda *args: make(look).client_update(*args, round)[0])
    upload = update(jax.random.key(3), received, client, data)
    return upload.metrics["loss"], tree.neg(upload.message.params)


def table(rows: int, classes: int) -> Task:
    """A model that knows the logits of every row by heart; ``x`` is the row's number."""

    def init(key: Key) -> Variables:
        return Variables(jnp.zeros((rows, classes)))

    return task_of(init, lambda model, x, key=None: (model.params[x], model.stats))
