"""Networks whose last block can be called by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from fedjax_kd.core import Algorithm, Variables
from fedjax_kd.local import local_training
from fedjax_kd.models.mlp import mlp
from fedjax_kd.task import Task, from_linen, from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)


Method = Callable[..., Algorithm]


KEY = jax.random.key(0)


class Blocks(nnx.Module):
    """Two convolutions, the second one the last block, with or without normalisation."""

    def __init__(self, rngs: nnx.Rngs, norm: str = "batch") -> None:
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        kinds = {"batch": nnx.BatchNorm, "group": partial(nnx.GroupNorm, num_groups=4)}
        self.norm = kinds[norm](16, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def last_block(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x)))

    def features(self, x: jax.Array) -> jax.Array:
        return self.last_block(jax.nn.relu(self.first(x))).mean((1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class LinenBlocks(linen.Module):
    """The same in Linen."""

    def setup(self):
        self.first = linen.Conv(8, (3, 3))
        self.second = linen.Conv(16, (3, 3), strides=2)
        self.norm, self.head = linen.BatchNorm(), linen.Dense(3)

    def last_block(self, x: jax.Array, train: bool) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x), use_running_average=not train))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.last_block(jax.nn.relu(self.first(x)), train)
        return self.head(x.mean((1, 2)))


class Normed(nnx.Module):
    """Two hidden layers, the second one with batch normalisation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 16, rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

    def last_block(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x)))

    def features(self, x: jax.Array) -> jax.Array:
        return self.last_block(jax.nn.relu(self.first(x.reshape(len(x), -1))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), jnp.float32)


NETWORKS: dict[str, Callable[[], Task]] = {
    "nnx": lambda: from_nnx(Blocks),
    "linen": lambda: from_linen(LinenBlocks(), IMAGES),
    "mlp": lambda: from_nnx(mlp((16,), 3, hidden=(8, 16))),
    "normed": lambda: from_nnx(Normed),
}


@cache
def network(name: str) -> tuple[Task, Variables]:
    task = NETWORKS[name]()
    return task, jax.jit(task.init)(KEY)
