"""Several models of one task: their starts, their losses, and which of them suits a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import losses, tree
from fedjax_kd.batching import over_rows
from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.core import Batch, Data, Key, PyTree, Upload, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.task import Task

_AT_ONCE = 64  # rows of a client that all models look at together

_NUMBER_BYTES = 4


class Clustered(NamedTuple):
    """What all models have in common, and what each has of its own, leaves ``[M, ...]``."""

    common: Any
    own: Any


class ClusterUpload(NamedTuple):
    """A client's change: of what is common, and of its cluster; zeros for the other clusters."""

    common: Any
    own: Any  # [M, ...]
    chosen: Any  # [M], 1 for its cluster


def several(init: Callable[[Key], PyTree], count: int) -> Callable[[Key], PyTree]:
    """Starts of ``count`` models, leaves ``[M, ...]``; the first is what ``init`` makes of the key.

    Example:
      >>> starts = several(jax.random.normal, 3)(jax.random.key(0))
      >>> starts.shape, bool(starts[0] == jax.random.normal(jax.random.key(0)))
      ((3,), True)
    """

    def all_of_them(key: Key) -> PyTree:
        others = [jax.random.fold_in(key, number) for number in range(1, count)]
        return jax.vmap(init)(jnp.stack([key, *others]))

    return all_of_them


def check_starts(task: Task, part: Part, count: int) -> None:
    """Raises ValueError if this part of several models would start alike in all of them.

    Models that are alike stay so: they have the same loss on every example.
    """

    def start(key: Key, _: None) -> Variables:
        return partition(part, task.init(key))[1]

    if count > 1 and not tree.reads(start, jax.random.key(0), None):
        raise InputError(
            f"All {count} models would start alike, and stay so, since the task's `init` makes the "
            "same of every key: let it draw the parameters that the models have of their own."
        )


def losses_of_each(
    task: Task, models: Variables, batch: Batch
) -> tuple[Float[Array, "M B ..."], Float[Array, "B ..."]]:
    """The losses of some models ``[M, ...]`` in evaluation mode, and what each of them counts."""

    def one(model: Variables) -> Array:
        return task.example_loss(task.apply(model, batch.x)[0], batch.y)

    values = jax.vmap(one)(models)
    return values, losses.value_weights(values[0], batch.y, batch.mask).astype(values.dtype)


def mean_losses(task: Task, models: Variables, data: Data) -> Float[Array, " M"]:
    """The mean loss of each of some models over all examples of a client; 0 if it has none."""

    def add(sums: tuple[Array, Array], batch: Batch, _: Array) -> tuple[Array, Array]:
        values, weights = losses_of_each(task, models, batch)
        weighted = (values * weights[None]).sum(tuple(range(1, values.ndim)))
        return tree.add(sums, (weighted, weights.sum()))

    count = len(jax.tree.leaves(models)[0])
    summed, weight = over_rows(data, _AT_ONCE, add, (jnp.zeros(count), jnp.zeros(())))
    return summed / jnp.where(weight == 0, 1, weight)


def least(values: Float[Array, " M"]) -> Int[Array, ""]:
    """The number of the smallest loss: the first of equal ones, and never one that is NaN.

    Example:
      >>> least(jnp.array([jnp.nan, 2.0, 1.0, 1.0])).item()
      2
    """
    return jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values)).astype(jnp.int32)


def cluster_of(task: Task, models: Clustered, data: Data) -> Int[Array, ""]:
    """The number of the model whose mean loss on a client's examples is the smallest."""
    whole = jax.vmap(combine, (None, 0))(*models)
    return least(mean_losses(task, whole, data))


def model_of(models: Clustered, number: Int[Array, ""]) -> Variables:
    """The model of one cluster."""
    return combine(models.common, jax.tree.map(lambda a: a[number], models.own))


def uploaded(upload: Upload, part: Part, number: Int[Array, ""], count: int) -> Upload:
    """The upload of a model's change, as that of one of ``count`` clusters.

    Its shapes are static, so it has zeros for the other clusters, which a client need not send.
    """
    common, change = partition(part, upload.message)
    chosen = jax.nn.one_hot(number, count)
    message = ClusterUpload(common, jax.vmap(tree.scale, (0, None))(chosen, change), chosen)
    wire = upload.wire._replace(up=tree.num_bytes(upload.message) + _NUMBER_BYTES)
    return upload._replace(message=message, wire=wire)
