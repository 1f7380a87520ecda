"""Measures of predictions that can be added up over batches, clients and devices."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num
from numpy.typing import NDArray

from fedjax_kd.losses import are_labels, cross_entropy, label_weights, squared_error

_BINS = 15


class Tally(NamedTuple):
    """Sums over predictions; two tallies are added leaf by leaf.

    Where targets are values and no labels, nothing can be right or wrong: the last two are None.
    """

    counted: Float[Array, ""]  # how many were counted; examples, where targets are values
    loss: Float[Array, ""]
    correct: Float[Array, ""] | None
    bins: Float[Array, "3 15"] | None  # by confidence: count, sum of confidences, count correct


def tally(
    logits: Float[Array, " B *T L"], y: Num[Array, " B *T"], mask: Float[Array, " B"]
) -> Tally:
    """A tally of each row, leaves ``[B, ...]``; rows with mask 0 and labels of -1 count nothing.

    The loss is cross-entropy (nats) of labels, and mean squared error of other targets (see
    `fedjax_kd.losses`).

    Example:
      >>> rows = tally(jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.array([0, 1]), jnp.ones(2))
      >>> rows.counted.tolist(), rows.correct.tolist()
      ([1.0, 1.0], [1.0, 0.0])
    """
    if not are_labels(y):
        return Tally(mask, mask * squared_error(logits, y).astype(jnp.float32), None, None)
    num_rows = len(y)
    weights = label_weights(y, mask).reshape(num_rows, -1)
    loss = cross_entropy(logits, y).reshape(num_rows, -1)
    logits = logits.astype(jnp.float32).reshape(*weights.shape, logits.shape[-1])
    confidence = jax.nn.softmax(logits).max(-1)
    right = logits.argmax(-1) == y.reshape(weights.shape)
    correct = weights * right.astype(jnp.float32)
    return Tally(
        weights.sum(1),
        (weights * loss.astype(jnp.float32)).sum(1),
        correct.sum(1),
        binned(weights, confidence, correct, _BINS),
    )


def binned(
    weights: Float[Array, "B T"],
    confidence: Float[Array, "B T"],
    correct: Float[Array, "B T"],
    bins: int,
) -> Float[Array, "B 3 {bins}"]:
    """Sums over equal bins (low, high] of confidence: counts, confidences and correct predictions.

    Args:
      weights: what each prediction counts.
      confidence: the largest probability, in [0, 1].
      correct: the weight again where the prediction is right, else 0.
      bins: how many.

    Example:
      >>> one = jnp.ones((1, 2))
      >>> binned(one, jnp.array([[0.4, 0.9]]), one, 2)[0, 0]
      Array([1., 1.], dtype=float32)
    """
    place = jnp.clip(jnp.ceil(confidence * bins) - 1, 0, bins - 1).astype(jnp.int32)
    terms = jnp.stack([weights, weights * confidence, correct], axis=-1)
    # A product with one-hot bins would hold `bins` numbers a prediction: gigabytes for masks.
    sums = jax.vmap(partial(jax.ops.segment_sum, num_segments=bins))(terms, place)
    return sums.mT


def total_of(tallies: Tally) -> Tally:
    """The sum of many tallies over their leading axis."""
    return jax.tree.map(lambda a: a.sum(0), tallies)


def empty(*, of_labels: bool = True) -> Tally:
    """The tally of no predictions."""
    zero = jnp.zeros((), jnp.float32)
    if not of_labels:
        return Tally(zero, zero, None, None)
    return Tally(zero, zero, zero, jnp.zeros((3, _BINS), jnp.float32))


def summary(sums: Tally) -> dict[str, float]:
    """Mean loss (nats), accuracy in [0, 1] and expected calibration error of a tally.

    The error is the mean over 15 equal bins of confidence of |accuracy - confidence|, weighted by
    the bins' counts. All three are NaN where nothing was counted. Where targets are no labels there
    is only the loss, the mean squared error.

    Source: Guo, Pleiss, Sun, Weinberger, ICML 2017, arXiv:1706.04599.
    """
    count = float(sums.counted) or float("nan")
    loss = float(sums.loss) / count
    if sums.correct is None:
        return {"loss": loss}
    return {
        "loss": loss,
        "accuracy": float(sums.correct) / count,
        "ece": calibration_error(np.asarray(sums.bins), count),
    }


def calibration_error(bins: NDArray[np.floating], count: float) -> float:
    """The mean of |accuracy - confidence| over the bins of `binned`, weighted by their counts.

    Example:
      >>> calibration_error(np.array([[1.0, 1.0], [0.4, 0.9], [0.0, 1.0]]), 2)
      0.25
    """
    _, confidence, correct = bins
    return float(np.abs(correct - confidence).sum()) / count
