"""Losses against labels or values, one value an example, and how to average them.

The dtype of targets tells their kind: int32 numbers are labels; bytes and floats are values that
the outputs should equal, bytes as pixels, which stand for [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from fedjax_kd.core import Batch, PyTree
from fedjax_kd.errors import InputError

ExampleLoss = Callable[[Array, PyTree], Array]
"""(outputs ``[B, ...]``, targets) -> the loss of each example ``[B]`` or target ``[B, ...]``"""

NO_LABEL = -1  # a position that no loss and no metric may count


def cross_entropy(logits: Float[Array, "*B L"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Softmax cross-entropy in nats, one value a label; 0 where the label is -1.

    Args:
      logits: unnormalised log-probabilities ``[B, ..., L]``.
      labels: classes ``[B, ...]`` in ``0 .. L - 1``, or -1 for "no label".

    Raises:
      ValueError: if there is not one label a row of logits.

    Example:
      >>> logits = jnp.array([[0.0, 0.0], [0.0, 5.0]])
      >>> cross_entropy(logits, jnp.array([0, -1]))
      Array([0.693, 0.   ], dtype=float32)
    """
    check_labels(logits, labels)
    labels = labels.astype(jnp.int32)
    known = labels != NO_LABEL
    values = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(known, labels, 0)
    )
    return jnp.where(known, values, 0)


def check_labels(logits: Array, labels: Array) -> None:
    """Raises ValueError if there is not one label a row of logits."""
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"The model's outputs have shape {logits.shape} and the labels {labels.shape}, but "
            "there must be one label a row of logits: take a classifier."
        )


def squared_error(
    predictions: Float[Array, "B ..."], targets: Num[Array, "B ..."]
) -> Float[Array, " B"]:
    """The squared difference, averaged over all axes but the first: one value an example.

    Args:
      predictions: ``[B, ...]``.
      targets: floats, or bytes that stand for [0, 1], of the same shape.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
      Array([2.], dtype=float32)
    """
    check_same_shape(predictions, targets)
    errors = optax.losses.squared_error(predictions, unit(targets).astype(predictions.dtype))
    return errors.reshape(errors.shape[0], -1).mean(axis=1)


def check_same_shape(outputs: Array, targets: Array) -> None:
    """Raises ValueError if outputs have not the shape of their targets."""
    if outputs.shape != targets.shape:
        raise InputError(
            f"The model's outputs have shape {outputs.shape}, but the values that they should "
            f"equal {targets.shape}: take a model whose outputs have the shape of its targets, as "
            "autoencoder has that of its inputs."
        )


def unit(x: ArrayLike) -> Array:
    """Bytes, which are pixels, as float32 in [0, 1]; anything else as it is.

    Example:
      >>> unit(jnp.array([0, 51, 255], jnp.uint8))
      Array([0. , 0.2, 1. ], dtype=float32)
    """
    values = jnp.asarray(x)
    if values.dtype != jnp.uint8:
        return values
    return values.astype(jnp.float32) / jnp.float32(255)


def are_labels(targets: Array) -> bool:
    """Whether targets are classes, and not values: whether they are integers but no bytes.

    Example:
      >>> are_labels(jnp.array([1, -1])), are_labels(jnp.zeros(2, jnp.uint8))
      (True, False)
    """
    return jnp.issubdtype(targets.dtype, jnp.integer) and targets.dtype != jnp.uint8


def masked_mean(values: Float[Array, "*B"], weights: Float[Array, "*B"]) -> Float[Array, ""]:
    """The weighted mean of ``values``; 0 if all weights are 0.

    Args:
      values: what to average, any shape.
      weights: >= 0, of the same shape.

    Example:
      >>> masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0]))
      Array(2., dtype=float32)
    """
    weights = weights.astype(values.dtype)
    total = weights.sum()
    return (values * weights).sum() / jnp.where(total == 0, 1, total)


def batch_mean(values: Float[Array, "B ..."], batch: Batch) -> Float[Array, ""]:
    """The mean of a batch's values over real rows and, if its targets are labels, known labels.

    Args:
      values: one an example or one a label ``[B, ...]``.
      batch: whose ``y`` says "no label" by -1, if it is integers of the shape of ``values``.

    Example:
      >>> batch = Batch(x=None, y=jnp.array([2, -1, 0]), mask=jnp.array([1.0, 1.0, 0.0]))
      >>> batch_mean(jnp.array([3.0, 5.0, 7.0]), batch)
      Array(3., dtype=float32)
    """
    return masked_mean(values, value_weights(values, batch.y, batch.mask))


def value_weights(
    values: Float[Array, "B ..."], y: PyTree, mask: Float[Array, " B"]
) -> Float[Array, "B ..."]:
    """What each of a batch's values counts: its row's ``mask``, and 0 where its label is -1.

    Args:
      values: one an example or one a label ``[B, ...]``.
      y: targets, which say "no label" by -1 if they are integers of the shape of ``values``.
      mask: 1 for a real row, 0 for filling ``[B]``.

    Example:
      >>> value_weights(jnp.zeros(3), jnp.array([2, -1, 0]), jnp.array([1.0, 1.0, 0.0])).tolist()
      [1.0, 0.0, 0.0]
    """
    if isinstance(y, jax.Array) and y.shape == values.shape and are_labels(y):
        return label_weights(y, mask)
    rows = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.broadcast_to(rows, values.shape)


def label_weights(labels: Int[Array, "B ..."], mask: Float[Array, " B"]) -> Float[Array, "B ..."]:
    """What each label counts: its row's ``mask``, and 0 where the label is -1.

    Args:
      labels: classes ``[B, ...]``, or -1 for "no label".
      mask: 1 for a real row, 0 for filling ``[B]``.

    Example:
      >>> label_weights(jnp.array([[3, -1], [2, 2]]), jnp.array([1.0, 0.0]))
      Array([[1., 0.],
             [0., 0.]], dtype=float32)
    """
    rows = mask.reshape(mask.shape + (1,) * (labels.ndim - 1))
    return rows * (labels.astype(jnp.int32) != NO_LABEL).astype(mask.dtype)
