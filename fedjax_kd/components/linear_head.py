"""A linear head as its weights, whatever the names of its layer, and rescaled class by class."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import losses
from fedjax_kd.components.model_parts import classifier, head_types
from fedjax_kd.core import Variables
from fedjax_kd.task import Task

Realignment = Literal["paper", "code"]

_LENGTH = 1.7  # of every class's weights, of the authors' code


class LinearHead(NamedTuple):
    """Logits are ``features @ weight + bias``."""

    weight: Float[Array, "D L"]
    bias: Float[Array, " L"]

    def __call__(self, features: Float[Array, "*B D"]) -> Float[Array, "*B L"]:
        """The logits of features."""
        logits = features @ self.weight.astype(features.dtype)
        return logits + jnp.expand_dims(self.bias, tuple(range(logits.ndim - 1))).astype(
            logits.dtype
        )

    @property
    def lengths(self) -> Float[Array, " L"]:
        """The lengths of the classes' weights."""
        return losses.length(self.weight.T)

    def scaled(self, factors: Float[Array, " L"]) -> LinearHead:
        """Each class's weights times a number; biases as they are."""
        return self._replace(weight=self.weight * factors[None])


def linear_head(task: Task, model: Variables) -> LinearHead:
    """The head of a model, if it is linear: its logits of no features, and of each one alone."""
    features, _ = head_types(task)
    width, dtype = features.shape[-1], features.dtype
    alone = jnp.concatenate([jnp.zeros((1, width), dtype), jnp.eye(width, dtype=dtype)])
    logits = classifier(task)(model, alone)
    return LinearHead(logits[1:] - logits[:1], logits[0])


def realigned(generic: LinearHead) -> LinearHead:
    """FedLoGe's global head: the weights of all classes are equally long."""
    return generic.scaled(_LENGTH * _inverse(generic.lengths))


def adapted(generic: LinearHead, own: LinearHead, variant: Realignment = "paper") -> LinearHead:
    """FedLoGe's head of a client: the global one as long as the client's own is, and that added.

    Args:
      generic: the global head.
      own: the client's.
      variant: whether the global weights are divided by their own lengths ("paper"), or not.
    """
    factors = own.lengths if variant == "code" else own.lengths * _inverse(generic.lengths)
    rescaled = generic.scaled(factors)
    return LinearHead(rescaled.weight + own.weight, rescaled.bias + own.bias)


def _inverse(lengths: Array) -> Array:
    """1 over lengths, of which a class without weights has none."""
    return jnp.where(lengths == 0, 0, 1 / jnp.where(lengths == 0, 1, lengths))
