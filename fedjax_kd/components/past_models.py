"""The last models that a server had, and their mean."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fedjax_kd import tree
from fedjax_kd.core import PyTree


class LastModels(NamedTuple):
    """The last M models, the newest first, and how many there have been, up to M."""

    models: PyTree  # [M, ...]
    known: Int[Array, ""]

    @classmethod
    def of(cls, model: PyTree, count: int) -> LastModels:
        """Room for ``count`` models, of which there is one."""
        return cls(jax.tree.map(lambda a: jnp.stack([a] * count), model), jnp.int32(1))

    def then(self, model: PyTree) -> LastModels:
        """After a further model, for which the oldest one makes room."""
        count = len(jax.tree.leaves(self.models)[0])
        models = jax.tree.map(
            lambda new, old: jnp.concatenate([new[None], old[:-1]]), model, self.models
        )
        return LastModels(models, jnp.minimum(self.known + 1, count))

    def mean(self) -> PyTree:
        """The mean of those that there have been.

        Example:
          >>> past = LastModels.of(jnp.float32(1), 3)
          >>> past.mean(), past.then(jnp.float32(4)).mean()
          (Array(1., dtype=float32), Array(2.5, dtype=float32))
        """
        count = len(jax.tree.leaves(self.models)[0])
        votes = (jnp.arange(count, dtype=jnp.int32) < self.known).astype(jnp.float32)
        newest = jax.tree.map(lambda a: a[0], self.models)
        return tree.cast_like(tree.weighted_mean(self.models, votes), newest)


class WithPast(NamedTuple):
    """A server, and the models that it had."""

    base: Any
    past: LastModels
