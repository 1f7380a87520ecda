"""Many models as one teacher: what they say, how good they are, and how they vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedjax_kd import losses, tree
from fedjax_kd.core import Data, PyTree, Variables
from fedjax_kd.public import MissingError
from fedjax_kd.task import Task

Teach = Callable[[PyTree], Float[Array, "K *B L"]]
"""inputs ``[B, ...]`` -> the logits of every teacher"""

Votes = Literal["uniform", "accuracy"]

_CHANCE = 1.2  # times the accuracy of guessing: below it, a model is dropped
_TEACHERS_AT_ONCE = 8
_ROWS_AT_ONCE = 100


class Ensemble(NamedTuple):
    """Teachers and their votes, which need not sum to 1."""

    teach: Teach
    votes: Float[Array, " K"]


def ensemble(models: Sequence[tuple[Task, Variables]]) -> Teach:
    """Teachers of one or of several architectures, in evaluation mode.

    Args:
      models: for each architecture its task, and its models as leaves ``[K, ...]``.

    Raises:
      MissingError: when it is called, if their outputs differ in shape.
    """

    def teach(x: PyTree) -> Array:
        def of(task: Task, stacked: Variables) -> Array:
            def one(model: Variables) -> Array:
                return task.apply(model, x)[0]

            return jax.lax.map(one, stacked, batch_size=_TEACHERS_AT_ONCE)

        said = [of(*group) for group in models]
        shapes = [logits.shape[1:] for logits in said]
        if len(set(shapes)) > 1:
            raise MissingError(
                f"The groups' models give outputs of shapes {shapes} for the same inputs, but they "
                "can teach each other only what all know: take models for the same classes."
            )
        return jnp.concatenate(said)

    return teach


def elect(
    teach: Teach, present: Bool[Array, " K"], examples: Data, *, drop_worst: bool, votes: Votes
) -> tuple[Ensemble, Float[Array, " K"]]:
    """The teachers with their votes, and 1 for models that count at all, else 0.

    Args:
      teach: all models.
      present: which of them are there.
      examples: labelled ones, to judge by.
      drop_worst: whether those that do not better than guessing count for nothing, unless all are.
      votes: whether those that count vote alike or by their accuracy.
    """
    accuracy, classes = accuracies(teach, examples)
    fair = present & (accuracy * classes >= _CHANCE) if drop_worst else present
    kept = jnp.where(fair.any(), fair, present).astype(jnp.float32)
    return Ensemble(teach, kept * accuracy if votes == "accuracy" else kept), kept


def accuracies(teach: Teach, data: Data) -> tuple[Float[Array, " K"], int]:
    """How many of the labels each teacher gets right, in [0, 1], and the number of classes.

    Raises:
      MissingError: if the examples have no labels.
    """
    if not (isinstance(data.y, jax.Array) and losses.are_labels(data.y)):
        raise MissingError(
            "The server's examples have no classes, by which models could be judged: take "
            "best=False and votes='uniform', without drop_worst."
        )

    def rows(i: Array) -> tuple[Array, Array]:
        positions = i * _ROWS_AT_ONCE + jnp.arange(_ROWS_AT_ONCE, dtype=jnp.int32)
        batch = data.take(positions, (positions < data.size).astype(jnp.float32))
        said, counts = teach(batch.x), losses.label_weights(batch.y, batch.mask)
        right = said.argmax(-1).astype(jnp.int32) == batch.y[None].astype(jnp.int32)
        correct = right.astype(jnp.float32) * counts[None]
        return correct.sum(tuple(range(1, correct.ndim))), counts.sum()

    def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        return tree.add(sums, rows(i))

    empty = tree.zeros_like(jax.eval_shape(rows, jnp.int32(0)))
    correct, count = jax.lax.fori_loop(0, -(-data.size // _ROWS_AT_ONCE), add, empty)
    first = data.take(jnp.zeros(1, jnp.int32), jnp.ones(1))
    classes = jax.eval_shape(teach, first.x).shape[-1]
    return correct / jnp.maximum(count, 1), classes
