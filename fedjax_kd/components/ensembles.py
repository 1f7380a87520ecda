"""Many models as one teacher: their logits, their accuracies and their votes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fedjax_kd import losses, tree
from fedjax_kd.batching import in_pieces, over_rows
from fedjax_kd.core import Batch, Data, PyTree, Round, Variables
from fedjax_kd.data.public_inputs import MissingError, Stored, inputs_of, validation_of
from fedjax_kd.task import Task

Teach = Callable[[PyTree], Float[Array, "K *B L"]]
"""inputs ``[B, ...]`` -> the logits of every teacher"""

Votes = Literal["uniform", "accuracy"]

_CHANCE = 1.2  # times the accuracy of guessing: below it, a model is dropped
_TEACHERS_AT_ONCE = 8
_ROWS_AT_ONCE = 100
_ROOM = 2**28  # bytes of logits that may be kept


class Ensemble(NamedTuple):
    """Teachers and their votes, which need not sum to 1."""

    teach: Teach
    votes: Float[Array, " K"]
    logits: Array | None = None  # of every stored input ``[P, K, ...]``, if they are known


class Uploads(NamedTuple):
    """The uploads of the clients of one architecture."""

    task: Task
    received: Variables  # the model that they started from
    changes: Variables  # of it, leaves ``[K, ...]``
    votes: Float[Array, " K"]  # on the average; 0 in empty places

    @property
    def models(self) -> Variables:
        """Their models, leaves ``[K, ...]``."""
        return jax.vmap(tree.add, in_axes=(None, 0))(self.received, self.changes)


def uploads_of(
    tasks: Sequence[Task],
    received: Sequence[Variables],
    changes: Sequence[Variables],
    votes: Float[Array, " K"],
) -> list[Uploads]:
    """The uploads of each architecture; the votes of all are concatenated."""
    sizes = [len(jax.tree.leaves(change)[0]) for change in changes]
    by_group = jnp.split(votes, np.cumsum(sizes)[:-1])
    return [Uploads(*of) for of in zip(tasks, received, changes, by_group, strict=True)]


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

        logits = [of(*group) for group in models]
        shapes = [one.shape[1:] for one in logits]
        if len(set(shapes)) > 1:
            raise MissingError(
                f"The groups' models give outputs of shapes {shapes} for the same inputs, but they "
                "can teach each other only what all know: take models for the same classes."
            )
        return jnp.concatenate(logits)

    return teach


def answers(
    teach: Teach, inputs: PyTree, tasks: Sequence[Task], looks: int
) -> Float[Array, "P K *L"] | None:
    """The logits of all teachers for every stored input, if this is less work than in each step.

    None if it is not: inputs are not stored or changed by a student's augmentation, there are more
    of them than ``looks`` that students will take, or the answers would be too large to keep.
    """
    if not isinstance(inputs, Stored) or not all(_as_stored(task, inputs.x) for task in tasks):
        return None
    size = len(jax.tree.leaves(inputs.x)[0])

    def ask(x: PyTree) -> Array:
        return jnp.swapaxes(teach(x), 0, 1)

    one = jax.eval_shape(ask, jax.tree.map(lambda a: a[:1], inputs.x))
    if size > looks or size * tree.num_bytes(one) > _ROOM:
        return None
    return in_pieces(ask, inputs.x, _ROWS_AT_ONCE)


def _as_stored(task: Task, x: PyTree) -> bool:
    """Whether a model of the task sees inputs in training as they are."""
    program = jax.make_jaxpr(task.augment)(jax.random.key(0), x).jaxpr
    return program.outvars == program.invars[1:]


def elect(
    uploads: Sequence[Uploads], round: Round, *, drop_worst: bool, votes: Votes, looks: int
) -> tuple[Ensemble, list[Float[Array, " K"]]]:
    """All uploaded models as teachers, and the votes on the average of each architecture.

    Args:
      uploads: of each architecture.
      round: with public inputs, and labelled examples if models are to be judged.
      drop_worst: whether models that do not better than guessing count for nothing, unless all are.
      votes: whether the teachers vote alike or by their accuracy.
      looks: how many inputs students will take.

    Raises:
      MissingError: if there are no public inputs, or no labelled examples.
    """
    inputs = inputs_of(round, "FedDF")
    teach = ensemble([(u.task, u.models) for u in uploads])
    present = jnp.concatenate([u.votes for u in uploads]) > 0
    kept, accuracy = present.astype(jnp.float32), jnp.ones(())
    if drop_worst or votes == "accuracy":
        accuracy, classes = accuracies(teach, validation_of(round, "FedDF"))
        fair = present & (accuracy * classes >= _CHANCE) if drop_worst else present
        kept = jnp.where(fair.any(), fair, present).astype(jnp.float32)
    by_teacher = kept * accuracy if votes == "accuracy" else kept
    logits = answers(teach, inputs, [u.task for u in uploads], looks)
    by_group = jnp.split(kept, np.cumsum([len(u.votes) for u in uploads])[:-1])
    on_average = [u.votes * those for u, those in zip(uploads, by_group, strict=True)]
    return Ensemble(teach, by_teacher, logits), on_average


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

    def add(sums: tuple[Array, Array], batch: Batch, _: Array) -> tuple[Array, Array]:
        logits, counts = teach(batch.x), losses.label_weights(batch.y, batch.mask)
        right = logits.argmax(-1).astype(jnp.int32) == batch.y[None].astype(jnp.int32)
        correct = right.astype(jnp.float32) * counts[None]
        return tree.add(sums, (correct.sum(tuple(range(1, correct.ndim))), counts.sum()))

    first = data.take(jnp.zeros(1, jnp.int32), jnp.ones(1))
    answers = jax.eval_shape(teach, first.x)
    nothing = (jnp.zeros(len(answers), jnp.float32), jnp.float32(0))
    correct, count = over_rows(data, _ROWS_AT_ONCE, add, nothing)
    return correct / jnp.maximum(count, 1), answers.shape[-1]
