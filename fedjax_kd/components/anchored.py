"""Two heads on features that a fixed classifier teaches: what FedLoGe's clients do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from fedjax_kd import losses
from fedjax_kd.components.linear_head import Realignment, adapted, linear_head, realigned
from fedjax_kd.components.model_parts import classifier, combine, head_types, in_one_pass
from fedjax_kd.components.own_head import HeadsLoss
from fedjax_kd.core import Batch, Key, PyTree, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.task import Task


class Anchored(NamedTuple):
    """The model, or the server of it, and the fixed classifier's weights."""

    base: Any
    anchors: Float[Array, "D L"]


class Adapted(NamedTuple):
    """A client that is about to be evaluated: its own head, and the classes that it holds."""

    head: Variables
    present: Bool[Array, " L"]


def anchored_loss(task: Task) -> Callable[[Float[Array, "D L"]], HeadsLoss]:
    """Fixed weights to a loss: the body's below these, and both heads' on constant features.

    Raises:
      ValueError: if the task cannot tell its features, or its head.
    """
    both, classify = in_one_pass(task, "FedLoGe"), classifier(task)

    def below(anchors: Array) -> HeadsLoss:
        def loss(model: Variables, own: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            features, _, stats = both(model, batch.x, key)
            constant = jax.lax.stop_gradient(features)
            outputs = (
                features @ anchors.astype(features.dtype),
                classify(model, constant),
                classify(combine(own, model), constant),
            )
            values = [losses.batch_mean(task.example_loss(z, batch.y), batch) for z in outputs]
            return values[0] + values[1] + values[2], stats

        return loss

    return below


def realigned_logits(
    task: Task, variant: Realignment
) -> Callable[[Variables, Any, PyTree], Float[Array, "*B L"]]:
    """``(model, client, x) -> logits``: those of one client if it is `Adapted`, else for all."""

    def logits(model: Variables, client: Any, x: PyTree) -> Array:
        features, generic = task.features(model, x), linear_head(task, model)
        if not isinstance(client, Adapted):
            return realigned(generic)(features)
        own = linear_head(task, combine(client.head, model))
        return losses.among(client.present, adapted(generic, own, variant)(features))

    return logits


def room(task: Task, reader: str) -> tuple[int, int]:
    """The numbers of features and of classes, where there is room for these.

    Raises:
      ValueError: if there are fewer features than classes, or fewer than two classes.
    """
    features, logits = head_types(task)
    width, classes = features.shape[-1], logits.shape[-1]
    if not 2 <= classes <= width:
        raise InputError(
            f"The model has {width} features and {classes} classes, but {reader} places classes as "
            "far from each other as they can be: there must be at least two, and no fewer features "
            "than classes. Take a network whose last layer reads more."
        )
    return width, classes
