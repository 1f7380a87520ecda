"""A network cut in two: what its lower part, on a client, sends to the server's, and its losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import losses
from fedjax_kd.batching import turns
from fedjax_kd.core import Batch, Data, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.mutual import MutualVariant
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import check_choice
from fedjax_kd.task import Task

Both = Callable[..., tuple[Array, Array, PyTree]]
"""(model, x, key=None) -> features, logits, new stats"""

Weigh = Callable[[Array, Array], Array]
"""(cross-entropy, distillation) -> loss"""

MeasureBoth = Callable[[Variables, Batch, Key], tuple[Array, Array, Array, PyTree]]
"""(model, batch, key) -> cross-entropy, distillation, logits, new stats"""

AnsweringObjective = Callable[[Variables, Batch, Key], tuple[Array, tuple[PyTree, Array]]]
"""(model, batch, key) -> loss, (new stats, logits)"""

_AT_ONCE = 50  # examples of one client whose features are computed together


class Exchange(NamedTuple):
    """What a client sends of its examples, in their own order; rows from ``size`` on are zeros."""

    features: Float[Array, "N ..."]
    logits: Float[Array, "N L"]
    labels: Int[Array, " N"]
    size: Int[Array, ""]


def own_examples(data: Data, capacity: int) -> Data:
    """A client's examples alone ``[N, ...]``, so that other arrays can stand beside them.

    Rows after the last one repeat the first ones. What is over the capacity is left out.

    Example:
      >>> pool = jnp.array([5, 6, 7, 8])
      >>> data = Data(pool, -pool, jnp.arange(4), jnp.int32(1), jnp.int32(2))
      >>> own_examples(data, 3).x
      Array([6, 7, 6], dtype=int32)
    """
    numbers = jnp.arange(capacity, dtype=jnp.int32)
    own = data.take(numbers % jnp.maximum(data.size, 1), jnp.ones(capacity, jnp.float32))
    size = jnp.minimum(data.size, capacity)
    sizes = data.sizes and data.sizes.up_to(capacity)
    return Data(own.x, own.y, numbers, jnp.int32(0), size, data.client, sizes)


def exchange(both: Both, model: Variables, own: Data) -> Exchange:
    """Features and logits of all examples, from `own_examples`, in evaluation mode."""
    capacity = len(own.rows)
    at_once = min(_AT_ONCE, capacity)

    def look(first: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        positions = first + jnp.arange(at_once, dtype=jnp.int32)
        shown = own.take(positions % jnp.maximum(own.size, 1), jnp.ones(at_once, jnp.float32))
        features, logits, _ = both(model, shown.x)
        return jnp.where(positions < own.size, positions, capacity), (features, logits, shown.y)

    def piece(i: Array, kept: tuple) -> tuple:
        where, seen = look(i * at_once)
        return jax.tree.map(lambda a, new: a.at[where].set(new, mode="drop"), kept, seen)

    _, shapes = jax.eval_shape(look, jnp.int32(0))
    empty = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape[1:]), s.dtype), shapes)
    pieces = turns(lambda size: -(-size // at_once), own)
    features, logits, labels = jax.lax.fori_loop(0, pieces, piece, empty)
    return Exchange(features, logits, labels, own.size)


def labels_and_logits(task: Task, tau: Scalar, variant: MutualVariant) -> MeasureBoth:
    """How far a model is from labels, and from the logits of the network's other side.

    The targets of its batches are pairs of both.

    Raises:
      ValueError: if ``tau`` is a number <= 0, or the variant is unknown.
    """
    check_choice("variant", variant, MutualVariant)

    def measure(model: Variables, batch: Batch, key: Key) -> tuple[Array, Array, Array, PyTree]:
        labels, teacher = batch.y
        logits, stats = task.apply(model, batch.x, key)
        labelled = batch._replace(y=labels)
        distilled = losses.group_transfer(logits, teacher, tau, variant=variant)
        supervised = losses.batch_mean(task.example_loss(logits, labels), labelled)
        return supervised, losses.batch_mean(distilled, labelled), logits, stats

    return measure


def weighed(measure: MeasureBoth, weigh: Weigh) -> AnsweringObjective:
    """The weighted sum of the measured losses as an objective that also returns the logits."""

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, tuple[PyTree, Array]]:
        supervised, distilled, logits, stats = measure(model, batch, key)
        return weigh(supervised, distilled), (stats, logits)

    return objective


def without_logits(objective: AnsweringObjective) -> Objective:
    """The same objective for those who train on."""

    def silent(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        loss, (stats, _) = objective(model, batch, key)
        return loss, stats

    return silent
