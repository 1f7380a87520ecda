"""The network of a feature generator: from noise and labels to features."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Key
from fedjax_kd.task import Task, from_nnx

_KEPT, _EPSILON = 0.9, 1e-5  # of batch normalisation


class FeatureNetwork(nnx.Module):
    """A network of one hidden layer from noise ``[B, E]`` and labels ``[B]`` to features.

    The hidden layer is normalised and has no bias: normalisation would subtract it, and its
    gradient is rounding alone, of which Adam would make steps.
    """

    def __init__(
        self, noise: int, classes: int, hidden: int, width: int, *, rngs: nnx.Rngs
    ) -> None:
        keys = jax.random.split(rngs.params.key[...], 3)
        first, label, last = map(_normal, keys, (noise + 1, noise + 1, hidden))
        # Labels are one-hot inputs of the first layer, whose kernel has a row for each of them.
        self.noise = nnx.Linear(noise, hidden, use_bias=False, kernel_init=first, rngs=rngs)
        self.label = nnx.Embed(classes, hidden, embedding_init=label, rngs=rngs)
        self.norm = nnx.BatchNorm(
            hidden, momentum=_KEPT, epsilon=_EPSILON, use_fast_variance=False, rngs=rngs
        )
        self.out = nnx.Linear(hidden, width, kernel_init=last, rngs=rngs)

    def __call__(self, given: tuple[Float[Array, "B E"], Int[Array, " B"]]) -> Float[Array, "B D"]:
        noise, labels = given
        return self.out(jax.nn.relu(self.norm(self.noise(noise) + self.label(labels))))


def _normal(key: Key, inputs: int) -> Callable[..., Array]:
    """An initialiser of variance ``1 / inputs`` that draws by ``key`` and not by a layer's own."""
    return lambda _, shape, dtype: jax.random.normal(key, shape, dtype) / inputs**0.5


def generator_network(noise: int, classes: int, hidden: int, width: int) -> Task:
    """`FeatureNetwork` as pure functions; in training mode it normalises by the batch.

    Example:
      >>> network = generator_network(noise=2, classes=3, hidden=4, width=5)
      >>> model = network.init(jax.random.key(0))
      >>> network.apply(model, (jax.numpy.ones((1, 2)), jax.numpy.array([2])))[0].shape
      (1, 5)
    """
    return from_nnx(lambda rngs: FeatureNetwork(noise, classes, hidden, width, rngs=rngs))
