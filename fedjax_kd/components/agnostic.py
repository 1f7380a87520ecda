"""Domains of examples, of which the one with the largest loss is to count most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import losses, tree
from fedjax_kd.batching import over_rows
from fedjax_kd.components.model_checks import check_population
from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.task import Task

_AT_ONCE = 64  # rows of a client

DomainOf = Callable[[Batch], Int[Array, "B ..."]]
"""A batch to the number of each example's or value's domain; others count nothing."""


class DomainWeights(NamedTuple):
    """What a server knows of D domains."""

    log_weights: Float[Array, " D"]  # so that no weight is lost for good by rounding to 0
    window: Float[Array, "R D"]  # examples of the last R rounds
    latest: Float[Array, " D"]  # of the last round that had any


class WeighingServer(NamedTuple):
    """FedAvg's server, and the weights of domains."""

    base: Any
    domains: DomainWeights


class WeighedModel(NamedTuple):
    """The global model, and what an example of each domain weighs."""

    model: Any
    weights: Any


class DomainChange(NamedTuple):
    """A client's change, and the sum of its losses and of its examples in each domain."""

    change: Any
    loss: Any
    count: Any


def alike(domains: int, rounds: int) -> DomainWeights:
    """Equal weights of domains before the first of the rounds that a window of them remembers."""
    ones = jnp.ones((rounds, domains))
    return DomainWeights(jnp.full(domains, -jnp.log(domains), float), ones, ones[0])


def weight_of_an_example(known: DomainWeights) -> Float[Array, " D"]:
    """A domain's weight, divided by its examples in a round of the window.

    Where the window has none of a domain, they are those of the last round that had any.

    Example:
      >>> seen = DomainWeights(jnp.log(jnp.array([0.5, 0.5])), jnp.array([[5.0, 0.0]]), jnp.ones(2))
      >>> weight_of_an_example(seen).round(3).tolist()
      [0.10000000149011612, 0.5]
    """
    usual = known.window.mean(0)
    return jnp.exp(known.log_weights) / jnp.where(usual > 0, usual, known.latest)


def reweighted(
    known: DomainWeights, loss: Float[Array, " D"], count: Float[Array, " D"], rate: Scalar
) -> DomainWeights:
    """After a round: an exponentiated gradient step, and the window moved on.

    Args:
      known: before the round.
      loss: the sum over all examples of a domain in this round.
      count: how many there were; a domain without any has the loss 0.
      rate: learning rate of the step.
    """
    ascent = jnp.asarray(rate, loss.dtype) * loss / jnp.where(count > 0, count, 1)
    moved = jax.nn.log_softmax(known.log_weights + ascent.astype(known.log_weights.dtype))
    count = count.astype(known.window.dtype)
    window = jnp.concatenate([known.window[1:], count[None]])
    return DomainWeights(moved, window, jnp.where(count > 0, count, known.latest))


def of_domains(
    task: Task, model: Variables, data: Data, domain_of: DomainOf, domains: int
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """The sum of a client's losses in each domain, in evaluation mode, and of what they count."""

    def add(sums: tuple[Array, Array], batch: Batch, _: Array) -> tuple[Array, Array]:
        values = task.example_loss(task.apply(model, batch.x)[0], batch.y)
        members = _members(values, batch, domain_of, domains)
        both = values[..., None] * members, members
        return tree.add(sums, tuple(part.reshape(-1, domains).sum(0) for part in both))

    return over_rows(data, _AT_ONCE, add, (jnp.zeros(domains), jnp.zeros(domains)))


def weighted_sum(
    task: Task, domain_of: DomainOf, weights: Float[Array, " D"], rows: Int[Array, ""] | int
) -> Objective:
    """The sum of a batch's losses, each times the weight of its domain.

    Args:
      task: the model and its loss.
      domain_of: whose numbers choose among the weights.
      weights: of an example of each domain.
      rows: for batches that are pieces of so many rows, and over which it is averaged: the mean
        is then the sum over all of them. 0 if batches are not.
    """

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        logits, stats = task.apply(model, batch.x, key)
        values = task.example_loss(logits, batch.y)
        members = _members(values, batch, domain_of, len(weights))
        exact = jax.lax.Precision.HIGHEST
        each = jnp.matmul(members, weights.astype(values.dtype), precision=exact)
        mask = batch.mask.astype(values.dtype)
        of_all = jnp.asarray(rows, mask.dtype)
        pieces = jnp.where(of_all > 0, of_all / jnp.maximum(mask.sum(), 1), 1)
        return (values * each).sum() * pieces, stats

    return objective


def domain_function(domains: int, given: DomainOf | None) -> DomainOf:
    """The domains of examples: as given, else labels, or all one if there are fewer than two.

    Raises:
      ValueError: if a function is given, but no number of domains.
      TypeError: when it is applied, if labels are to be domains and the targets are no classes.
    """
    if given is not None and not domains:
        raise InputError(
            "domain_of is given, but domains=0 makes each client a domain of its own: say by "
            "`domains` how many there are."
        )

    def labels(batch: Batch) -> Array:
        if not losses.are_labels(batch.y):
            raise InputTypeError(
                f"domains={domains} takes labels for domains, but the targets are no classes: say "
                "by `domain_of` where examples belong."
            )
        return batch.y

    def together(batch: Batch) -> Array:
        return jnp.zeros(batch.mask.shape, jnp.int32)

    return given or (labels if domains > 1 else together)


def sent(server: WeighingServer, client: Int[Array, ""] | None) -> WeighedModel:
    """What a client receives: the weights of all domains, or of the one that has its number."""
    weights = weight_of_an_example(server.domains)
    own = weights if client is None else weights.at[client].get(mode="clip")[None]
    return WeighedModel(server.base.model, own)


def by_client(update: DomainChange, round: Round, population: int) -> DomainChange:
    """What clients sent of the one domain that each of them is, at their numbers, else 0.

    Raises:
      MissingError: if the federation has another number of clients.
    """
    check_population(population, round, "how many domains there are")
    who = jnp.where(round.present > 0, round.cohort, population)

    def placed(sums: Float[Array, "K 1"]) -> Float[Array, " C"]:
        return jnp.zeros(population, sums.dtype).at[who].set(sums[:, 0], mode="drop")

    return DomainChange(update.change, placed(update.loss), placed(update.count))


def _members(values: Array, batch: Batch, domain_of: DomainOf, domains: int) -> Float[Array, ...]:
    """What each value counts in each domain ``[B, ..., D]``."""
    numbers = domain_of(batch)
    numbers = numbers.reshape(numbers.shape + (1,) * (values.ndim - numbers.ndim))
    members = jax.nn.one_hot(jnp.broadcast_to(numbers, values.shape), domains, dtype=values.dtype)
    counted = losses.value_weights(values, batch.y, batch.mask).astype(values.dtype)
    return members * counted[..., None]
