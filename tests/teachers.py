"""What a server that distils is given in a round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from federations import dataset

from fedjax_kd.core import Data, Round, Variables
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.task import Task

SHORT = {"distil_steps": 4, "distil_batch": 5}


def labelled(rows: int = 30) -> Data:
    """Examples of the server."""
    data = dataset(rows, seed=0).train
    return Data.all_of(jnp.asarray(data.x), jnp.asarray(data.y))


def stored() -> Stored:
    return Stored(jnp.asarray(dataset(40, seed=1).train.x))


def in_round(inputs: Any, validation: Data | None = None) -> Round:
    return Round(
        jnp.int32(0), jnp.arange(3), jnp.ones(3), jnp.ones(3), 6, Public(inputs, validation)
    )


def models(task: Task, count: int = 3) -> Variables:
    """Different models of a task."""
    return jax.vmap(task.init)(jax.random.split(jax.random.key(7), count))
