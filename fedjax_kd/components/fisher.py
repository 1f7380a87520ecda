"""The diagonal of the Fisher information, and springs as stiff as that: elastic weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses, tree
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Batch, Data, PyTree, Scalar, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.task import Task

FisherLabels = Literal["data", "model"]


class Curvature(NamedTuple):
    """F, and F times the parameters where it was taken, of one client or summed over several."""

    fisher: PyTree
    pull: PyTree

    @classmethod
    def zero(cls, params: PyTree) -> Curvature:
        """Of nobody."""
        return cls(tree.zeros_like(params), tree.zeros_like(params))

    @classmethod
    def at(cls, fisher: PyTree, params: PyTree) -> Curvature:
        """Of one client, at its parameters."""
        return cls(fisher, jax.tree.map(jnp.multiply, fisher, params))

    def springs(self, strength: Scalar) -> Callable[[Variables], Array]:
        """``strength * sum_j F_j (w - w_j)^2`` of a model, up to a constant."""

        def penalty(model: Variables) -> Array:
            squares = jax.tree.map(jnp.square, model.params)
            bent = tree.dot(self.fisher, squares) - 2 * tree.dot(self.pull, model.params)
            return jnp.asarray(strength, bent.dtype) * bent

        return penalty


class Curved(NamedTuple):
    """Curvature, the round in which it was sent, and the model or the server beside which it is."""

    base: Any
    curvature: Curvature
    sent: Any


def fisher_diagonal(task: Task, labels: FisherLabels) -> Callable[[Variables, Data], PyTree]:
    """``(model, data) -> mean_x (d log p(y | x) / d w)^2`` of the parameters; 0 without data.

    Gradients are those of single examples, which a batch's gradient squared does not give. The
    model is in evaluation mode.

    Args:
      task: the model and its loss, which is taken for ``-log p``.
      labels: whether y are the "data"'s labels, or all of the "model"'s, each as likely as it says.
    """
    of_one = _of_labels if labels == "data" else _of_expected

    def fisher(model: Variables, data: Data) -> PyTree:
        def add(carry: PyTree, one: Batch, _: Array) -> PyTree:
            return tree.add(carry, of_one(task, model, one))

        # One by one: gradients of several would be written to memory before they are squared, which
        # takes ten times as long on a CPU.
        summed = over_rows(data, 1, add, tree.zeros_like(model.params))
        return tree.scale(1 / jnp.maximum(data.size, 1).astype(float), summed)

    return fisher


def _of_labels(task: Task, model: Variables, one: Batch) -> PyTree:
    """Squares of the gradient of one example's loss."""

    def loss(params: PyTree) -> Array:
        logits, _ = task.apply(model._replace(params=params), one.x)
        return losses.batch_mean(task.example_loss(logits, one.y), one)

    return jax.tree.map(jnp.square, jax.grad(loss)(model.params))


def _of_expected(task: Task, model: Variables, one: Batch) -> PyTree:
    """The mean of these squares over the labels that the model expects."""
    logits, _ = task.apply(model, one.x)
    if logits.ndim != 2:
        raise InputError(
            f"The model's outputs have shape {logits.shape[1:]} an example, but the labels that it "
            "expects are those of one class an example: take labels='data'."
        )
    shares = jax.nn.softmax(logits[0])

    def add(summed: PyTree, label: Array) -> tuple[PyTree, None]:
        squares = _of_labels(task, model, one._replace(y=label[None]))
        return tree.add_scaled(summed, shares[label], squares), None

    classes = jnp.arange(len(shares), dtype=jnp.int32)
    return jax.lax.scan(add, tree.zeros_like(model.params), classes)[0]
