"""How alike clients' classifiers are, and how much they give to each other's bodies for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.components.model_checks import check_population
from fedjax_kd.components.model_parts import Part, combine, nonempty_head, output_types, partition
from fedjax_kd.core import Plan, PyTree, Round, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.task import Task

MOST_ALIKE = 0.9999  # two classifiers, and one with itself: 1 would weigh infinitely


def class_weights(task: Task) -> tuple[Part, Part]:
    """The head, and those of its values which are weights ``[..., L]``, a vector for each class.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if the task does not know the shape of its examples, or there are no such values.
    """
    part, model = nonempty_head(task), jax.eval_shape(task.init, jax.random.key(0))
    logits = output_types(task)

    def of_classes(here: bool, value: jax.ShapeDtypeStruct) -> bool:
        return here and len(value.shape) > 1 and value.shape[-1] == logits.shape[-1]

    weights = part._replace(params=jax.tree.map(of_classes, part.params, model.params))
    weights = weights._replace(stats=jax.tree.map(lambda _: False, part.stats))
    if not any(jax.tree.leaves(weights)):
        raise InputError(
            "The head of the model has no weights with a vector for each of the "
            f"{logits.shape[-1]} classes, by which clients could be compared: let the last layer "
            "be a dense one."
        )
    return part, weights


def similarities(weights: PyTree) -> Float[Array, "K K"]:
    """The mean over classes of the cosine between clients' weights of a class, but at least 0.

    Args:
      weights: of each client, leaves ``[K, ..., L]``.

    Example:
      >>> similarities(jnp.array([[[1.0, 0.0]], [[3.0, 0.0]], [[-1.0, 2.0]]])).tolist()
      [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    leaves = [a.reshape(len(a), -1, a.shape[-1]) for a in jax.tree.leaves(weights)]
    vectors = jnp.concatenate([a.astype(jnp.result_type(*leaves)) for a in leaves], axis=1)
    norms = jnp.sqrt((vectors**2).sum(1, keepdims=True))
    units = vectors / jnp.where(norms == 0, 1, norms)
    products = jnp.einsum("kdl,jdl->kj", units, units, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(products / vectors.shape[-1], 0)


def mixing_shares(row: Float[Array, " C"], own: Array) -> Float[Array, " C"]:
    """What each client gives to one of them, by a row of similarities; the shares sum to 1.

    Example:
      >>> mixing_shares(jnp.array([1.0, 0.99, 0.0]), jnp.int32(0)).round(2).tolist()
      [0.67, 0.33, 0.0]
    """
    alike = jnp.minimum(jnp.where(jnp.arange(len(row), dtype=jnp.int32) == own, 1, row), MOST_ALIKE)
    given = -jnp.log1p(-alike)
    return given / given.sum()


class WithModels(NamedTuple):
    """A server with the last model of each client, and how alike two were when last together."""

    base: Any  # a server whose ``model`` clients start from
    models: Any  # [C, ...]
    known: Any  # [C], false where there is none yet
    similarity: Any  # [C, C]


def without_models(base: Any, population: int) -> WithModels:
    """A server that has room for models, but none yet."""
    room = jax.tree.map(lambda a: jnp.zeros((population, *a.shape), a.dtype), base.model)
    return WithModels(base, room, jnp.zeros(population, bool), jnp.eye(population))


def last_model(server: WithModels, number: Int[Array, ""]) -> Variables:
    """The last model of a client, or the one to start from; number -1 stands for a newcomer."""
    place = jnp.maximum(number, 0)
    own = jax.tree.map(lambda a: a[place], server.models)
    return tree.where(server.known[place] & (number >= 0), own, server.base.model)


def mixed_model(server: WithModels, head: Part, number: Int[Array, ""]) -> Variables:
    """A client's own head on the mean of the bodies, weighed by `mixing_shares`."""
    body, own_head = partition(head, last_model(server, number))
    shares = mixing_shares(server.similarity[number], number)
    bodies, _ = partition(head, server.models)
    mixed = tree.cast_like(tree.weighted_mean(bodies, shares), body)
    return combine(tree.where(server.known[number], mixed, body), own_head)


def own_share(server: WithModels, number: Int[Array, ""]) -> Float[Array, ""]:
    """How much of its own a client's next body has; 1 before it has a model."""
    place = jnp.maximum(number, 0)
    share = mixing_shares(server.similarity[place], place)[place]
    return jnp.where(server.known[place] & (number >= 0), share, 1)


def with_models(server: WithModels, weights: Part, sent: Variables, round: Round) -> WithModels:
    """The server after a round in which the cohort's models ``[K, ...]`` were sent.

    Raises:
      MissingError: if a federation has not so many clients as there is room for.
    """
    population = len(server.known)
    check_population(population, round, "for how many clients the server has room")
    who = jnp.where(round.present > 0, round.cohort, population)  # others are dropped
    found = similarities(partition(weights, sent)[1]).astype(server.similarity.dtype)
    return server._replace(
        models=jax.tree.map(lambda a, new: a.at[who].set(new, mode="drop"), server.models, sent),
        known=server.known.at[who].set(True, mode="drop"),
        similarity=server.similarity.at[who[:, None], who[None]].set(found, mode="drop"),
    )


def warmup_is_all(warmup: int) -> Callable[[Plan], str | None]:
    """What is seldom meant of rounds before the first in which bodies are mixed."""

    def edge(plan: Plan) -> str | None:
        if plan.num_rounds > warmup:
            return None
        return (
            f"warmup is {warmup} and num_rounds {plan.num_rounds}, so that this is FedAvg: take "
            f"warmup={plan.num_rounds // 2}, half of the rounds, as in the paper."
        )

    return edge
