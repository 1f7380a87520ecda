"""Mixtures of models: what each of them has to do with an example, a client and a prediction.

Probabilities are kept as logarithms, so that no model is lost to rounding for ever.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import losses
from fedjax_kd.batching import over_rows
from fedjax_kd.components.clusters import losses_of_each
from fedjax_kd.core import Batch, Data, Key, PyTree, Variables
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.task import Task

_AT_ONCE = 64  # rows of a client that all models look at together


def example_losses(task: Task, models: Variables, batch: Batch) -> Float[Array, "M B"]:
    """The loss of each example under some models, the mean over its labels if it has several."""
    values, weights = losses_of_each(task, models, batch)
    axes = tuple(range(1, weights.ndim))
    count = weights.sum(axes)
    summed = (values * weights[None]).sum(tuple(axis + 1 for axis in axes))
    return summed / jnp.where(count == 0, 1, count)[None]


def log_responsibilities(
    values: Float[Array, "M B"], log_mixture: Float[Array, " M"]
) -> Float[Array, "M B"]:
    """The logarithm of how probable it is that an example is of a component, given its losses.

    Example:
      >>> jnp.exp(log_responsibilities(jnp.zeros((2, 1)), jnp.log(jnp.array([0.25, 0.75])))).ravel()
      Array([0.25, 0.75], dtype=float32)
    """
    return jax.nn.log_softmax(log_mixture[:, None] - values.astype(log_mixture.dtype), axis=0)


def log_mixture_of(
    task: Task, models: Variables, log_mixture: Float[Array, " M"], data: Data
) -> Float[Array, " M"]:
    """A client's new mixture: the mean of its examples' responsibilities; as it was without any."""

    def add(log_sum: Array, batch: Batch, _: Array) -> Array:
        found = log_responsibilities(example_losses(task, models, batch), log_mixture)
        counted = jnp.where(batch.mask[None] > 0, found, -jnp.inf)
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(counted, axis=1))

    log_sum = over_rows(data, _AT_ONCE, add, jnp.full_like(log_mixture, -jnp.inf))
    count = jnp.maximum(data.size, 1).astype(log_mixture.dtype)
    return jnp.where(data.size > 0, log_sum - jnp.log(count), log_mixture)


def mixture_loss(task: Task, received: Variables, log_mixture: Float[Array, " M"]) -> Objective:
    """The sum over some models ``[M, ...]`` of the mean loss, weighted by responsibilities.

    These are of the received models, on examples without augmentation.
    """

    def loss(models: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        log_shares = log_responsibilities(example_losses(task, received, batch), log_mixture)

        def one(model: Variables, share: Float[Array, " B"]) -> tuple[Array, PyTree]:
            logits, stats = task.apply(model, batch.x, key)
            values = task.example_loss(logits, batch.y)
            share = share.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
            return losses.batch_mean(share * values, batch), stats

        values, stats = jax.vmap(one)(models, jnp.exp(log_shares))
        return values.sum(), stats

    return loss


def mixture_logits(
    task: Task, models: Variables, log_mixture: Float[Array, " M"], x: PyTree
) -> Float[Array, "B ..."]:
    """The logarithms of the probabilities that the mixture gives to classes."""

    def one(model: Variables, log_share: Array) -> Array:
        log_predictions = jax.nn.log_softmax(task.apply(model, x)[0])
        return log_share.astype(log_predictions.dtype) + log_predictions

    return jax.nn.logsumexp(jax.vmap(one)(models, jax.nn.log_softmax(log_mixture)), axis=0)
