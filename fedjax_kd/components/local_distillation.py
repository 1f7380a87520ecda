"""Distillation losses by name, for clients that the received model teaches.

Each loss is a function of the outputs that student and teacher have for the same inputs: logits,
features, or the feature maps before and after the last block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.components.model_parts import check_example, in_one_pass, last_block
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice
from fedjax_kd.task import Task

KdLoss = Literal[
    "kl",
    "mse",
    "features",
    "cosine",
    "similarity",
    "rkd",
    "tokens",
    "attention",
    "frskd",
    "fsp",
    "svd",
    "eid",
]

_ANGLES = 2.0  # times the distances of RKD: the paper's weights are 25 and 50
_MAPS = 50.0  # times the divergence of FRSKD: the authors' weights for CIFAR-100 are 2 and 100


class Outputs(NamedTuple):
    """What a model gives for a batch; what the chosen loss does not read is left out."""

    logits: Array
    features: Any = None  # the input of the last layer [B, ..., D]
    maps: tuple[Array, ...] = ()  # the last block's input and output


OutputLoss = Callable[[Outputs, Outputs, Batch, Scalar], Array]
"""(student's outputs, teacher's outputs, batch, tau) -> values ``[B, ...]``"""


def _comparing(field: str, loss: Callable[..., Array]) -> OutputLoss:
    """A loss of one field of the outputs alone."""
    return lambda student, teacher, batch, tau: loss(
        getattr(student, field), getattr(teacher, field)
    )


def _divergence(student: Outputs, teacher: Outputs, batch: Batch, tau: Scalar) -> Array:
    losses.check_labels(student.logits, batch.y)
    return losses.kl_divergence(student.logits, teacher.logits, tau)


def _similarity(student: Outputs, teacher: Outputs, batch: Batch, tau: Scalar) -> Array:
    return losses.similarity_preserving(student.features, teacher.features, batch.mask)


def _relations(student: Outputs, teacher: Outputs, batch: Batch, tau: Scalar) -> Array:
    given = student.features, teacher.features, batch.mask
    return losses.relational_distances(*given) + _ANGLES * losses.relational_angles(*given)


def _token_relations(student: Array, teacher: Array) -> Array:
    related = losses.token_relations
    return losses.kl_divergence(related(student, student), related(teacher, teacher))


def _attention(student: tuple[Array, Array], teacher: tuple[Array, Array]) -> Array:
    before, after = map(losses.attention_transfer, student, teacher)
    return before + after


def _refinement(student: Outputs, teacher: Outputs, batch: Batch, tau: Scalar) -> Array:
    losses.check_labels(student.logits, batch.y)
    given = student.logits, teacher.logits, student.maps, teacher.maps
    return losses.feature_refinement(*given, alpha=1.0, beta=_MAPS, tau=tau, measure="mean")


_OF_LOGITS: dict[str, OutputLoss] = {
    "kl": _divergence,
    "mse": _comparing("logits", losses.logit_mse),
}
_OF_FEATURES: dict[str, OutputLoss] = {
    "features": _comparing("features", losses.feature_mse),
    "cosine": _comparing("features", losses.feature_cosine),
    "similarity": _similarity,
    "rkd": _relations,
    "tokens": _comparing("features", _token_relations),
}
_OF_MAPS: dict[str, OutputLoss] = {
    "attention": _comparing("maps", _attention),
    "frskd": _refinement,
    "fsp": _comparing("maps", losses.flow_matching),
    "svd": _comparing("maps", losses.singular_distillation),
    "eid": _comparing("maps", partial(losses.singular_distillation, decomposition="eid")),
}
OUTPUT_LOSSES = _OF_LOGITS | _OF_FEATURES | _OF_MAPS
"""Every loss by its name, as `output_loss` gives it."""

# Names of losses that take arrays of some numbers of axes alone: of others they are not defined, or
# the same for all values. With their shapes, for messages.
_AXES = {"tokens": [3], "fsp": [4], "attention": [3, 4, 5], "frskd": [3, 4, 5]}
_SHAPES = {"tokens": "[B, T, D]", "fsp": "[B, H, W, C]"}


def output_loss(
    task: Task, kd: KdLoss
) -> Callable[[Variables, Variables, Batch, Key, Scalar], tuple[Array, Array, PyTree]]:
    """The loss of that name between a model in training and its teacher.

    The teacher is in evaluation mode and sees the same augmented inputs.

    Args:
      task: of both.
      kd: the name, of `OUTPUT_LOSSES`.

    Returns:
      ``(model, teacher, batch, key, tau) -> values [B, ...], logits of the model, new stats``.

    Raises:
      ValueError: if there is no such loss, or the task does not give the outputs that it reads.
    """
    check_choice("kd", kd, KdLoss)
    outputs = _outputs(task, kd)
    if kd in _AXES:
        _check_axes(task, kd, outputs)

    def loss(
        model: Variables, teacher: Variables, batch: Batch, key: Key, tau: Scalar
    ) -> tuple[Array, Array, PyTree]:
        student, stats = outputs(model, batch.x, key)
        taught_by, _ = outputs(teacher, task.augment(key, batch.x))
        return OUTPUT_LOSSES[kd](student, taught_by, batch, tau), student.logits, stats

    return loss


def _outputs(task: Task, kd: KdLoss) -> Callable[..., tuple[Outputs, PyTree]]:
    """``(model, x, key=None) -> outputs that the loss reads, new stats``, of one pass."""
    if kd in _OF_LOGITS:

        def of_logits(model: Variables, x: PyTree, key: Key | None = None) -> tuple:
            logits, stats = task.apply(model, x, key)
            return Outputs(logits), stats

        return of_logits
    if kd in _OF_FEATURES:
        both = in_one_pass(task, f"kd {kd!r}")

        def of_features(model: Variables, x: PyTree, key: Key | None = None) -> tuple:
            features, logits, stats = both(model, x, key)
            return Outputs(logits, features), stats

        return of_features
    block = last_block(task, f"kd {kd!r}")

    def of_maps(model: Variables, x: PyTree, key: Key | None = None) -> tuple:
        before, after, logits, stats = block.passed(model, x, key)
        return Outputs(logits, maps=(before, after)), stats

    return of_maps


def _check_axes(task: Task, kd: KdLoss, outputs: Callable[..., tuple[Outputs, PyTree]]) -> None:
    """Raises ValueError if features or maps have another number of axes than ``kd`` takes."""
    check_example(task)
    model = jax.eval_shape(task.init, jax.random.key(0))
    seen, _ = jax.eval_shape(outputs, model, task.input_types)
    arrays = seen.maps or (seen.features,)
    if not all(array.ndim in _AXES[kd] for array in arrays):
        what = "features" if kd in _OF_FEATURES else "input and output of the last block"
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise InputError(
            f"kd is {kd!r}, which takes arrays {_SHAPES.get(kd, '[B, places ..., C]')}, but the "
            f"{what} of this model have the shape {shapes}: take another model, or another kd."
        )
