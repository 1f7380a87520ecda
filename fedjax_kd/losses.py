"""Loss functions: pure functions of arrays, one value an example, and how to average them."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

NO_LABEL = -1  # a position that no loss and no metric may count


def cross_entropy(logits: Float[Array, "*B L"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """Softmax cross-entropy in nats, one value a label; 0 where the label is -1.

    Args:
      logits: unnormalised log-probabilities ``[B, ..., L]``.
      labels: classes ``[B, ...]`` in ``0 .. L - 1``, or -1 for "no label".

    Example:
      >>> logits = jnp.array([[0.0, 0.0], [0.0, 5.0]])
      >>> cross_entropy(logits, jnp.array([0, -1]))
      Array([0.693, 0.   ], dtype=float32)
    """
    labels = labels.astype(jnp.int32)
    known = labels != NO_LABEL
    values = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(known, labels, 0)
    )
    return jnp.where(known, values, 0)


def squared_error(
    predictions: Float[Array, "B ..."], targets: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """The squared difference, averaged over all axes but the first: one value an example.

    Example:
      >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
      Array([2.], dtype=float32)
    """
    errors = optax.losses.squared_error(predictions, targets)
    return errors.reshape(errors.shape[0], -1).mean(axis=1)


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
