"""A student and its mentor, trained together: what FedKD's clients minimise."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.components.model_parts import in_one_pass
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.losses.mutual import MutualVariant
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import check_choice
from fedjax_kd.task import Task

Hidden = Literal["projected", "plain", "none"]
Evaluated = Literal["student", "mentor"]


class Private(NamedTuple):
    """What a client never sends."""

    mentor: Variables
    projection: PyTree  # from the student's features to the mentor's [D, D]; or ()


class Trio(NamedTuple):
    """The parameters, or the statistics, of all that one client trains."""

    student: PyTree
    mentor: PyTree
    projection: PyTree


def together(student: Variables, own: Private) -> Variables:
    """All that one client trains, as one model."""
    params = Trio(student.params, own.mentor.params, own.projection)
    return Variables(params, Trio(student.stats, own.mentor.stats, ()))


def apart(joint: Variables) -> tuple[Variables, Private]:
    """Undoes `together`."""
    params, stats = joint.params, joint.stats
    mentor = Variables(params.mentor, stats.mentor)
    return Variables(params.student, stats.student), Private(mentor, params.projection)


def start_of(task: Task, mentor: Task, hidden: Hidden, key: Key) -> Private:
    """A random mentor, and a projection that is the identity as far as widths allow."""
    model = mentor.init(key)
    if hidden != "projected":
        return Private(model, ())
    student = jax.eval_shape(task.init, key)
    rows, columns = (
        jax.eval_shape(t.features, v, task.input_types).shape[-1]
        for t, v in ((task, student), (mentor, model))
    )
    return Private(model, jnp.eye(rows, columns))


def _check(task: Task, mentor: Task, hidden: Hidden, variant: MutualVariant) -> None:
    """Raises ValueError if features are asked for that a model cannot give."""
    check_choice("hidden", hidden, Hidden)
    check_choice("variant", variant, MutualVariant)
    for each in () if hidden == "none" else (task, mentor):
        in_one_pass(each, "the hidden loss, which hidden='none' leaves out,")
    if hidden == "projected" and task.input_types is None:
        raise InputError(
            "This task does not know the shape of its examples, without which the projection has "
            "no size: give `from_nnx` an `example_x`, or take hidden='plain'."
        )


def mutual_objective(
    task: Task, mentor: Task, hidden: Hidden, beta: Scalar, variant: MutualVariant
) -> Objective:
    """The sum of both models' losses; each of them gets the gradient of its own.

    Raises:
      ValueError: if an option is unknown or out of range, or a model cannot give its features.
    """
    _check(task, mentor, hidden, variant)

    def seen(of: Task, model: Variables, batch: Batch, key: Key) -> tuple[Array, Array, PyTree]:
        if hidden == "none" or of.features_and_logits is None:
            return jnp.zeros((len(batch.mask), 1)), *of.apply(model, batch.x, key)
        return of.features_and_logits(model, batch.x, key)

    def loss(joint: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        student, own = apart(joint)
        near, mentee, stats = seen(task, student, batch, key)
        far, teacher, mentor_stats = seen(mentor, own.mentor, batch, key)
        near = near @ own.projection if hidden == "projected" else near
        distance = losses.masked_mean(losses.feature_mse(near, far), batch.mask)
        if variant == "paper":  # it is in both losses, but in each model's gradient once
            distance = (distance + jax.lax.stop_gradient(distance)) / 2
        mask = losses.label_weights(batch.y, batch.mask)
        mutual = losses.adaptive_mutual(teacher, mentee, batch.y, distance, mask, variant=variant)
        values = sum(
            task.example_loss(logits, batch.y)
            + beta * (value - losses.cross_entropy(logits, batch.y))
            for logits, value in ((mentee, mutual.student), (teacher, mutual.teacher))
        )
        return losses.batch_mean(jnp.asarray(values), batch), Trio(stats, mentor_stats, ())

    return loss
