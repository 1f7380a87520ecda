"""Metrics of classifiers: one label an example, or one a position; -1 is no label."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from fedjax_kd.losses import label_weights
from fedjax_kd.metrics.metric import Metric, mean_known, mean_of, ratio
from fedjax_kd.metrics.ranking import area_under_curve, wins
from fedjax_kd.options import checks_options

_BINS = 15


@checks_options
def top_k(k: int) -> Metric:
    """The share of labels among the ``k`` classes of the largest logits.

    Args:
      k: classes, >= 1; 1 is accuracy, where ties go to the first class.

    Raises:
      ValueError: if ``k`` is out of its range.

    Example:
      >>> logits, y = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([1])
      >>> [float(top_k(k).sums(logits, y, jnp.ones(1))[0][0]) for k in (1, 2)]
      [0.0, 1.0]
    """

    def among(logits: Array, y: Array) -> Array:
        if k == 1:
            return logits.argmax(-1).astype(jnp.int32) == y.astype(jnp.int32)
        if k >= logits.shape[-1]:
            return jnp.ones(y.shape, bool)
        best = jax.lax.top_k(logits, k)[1].astype(jnp.int32)
        own = jnp.broadcast_to(y.astype(jnp.int32)[..., None], best.shape)
        return (best == own).any(-1)

    best = "equal the likeliest class" if k == 1 else f"are among the {k} likeliest classes"
    return mean_of(among, about=f"The share of labels that {best}.")


accuracy = top_k(1)


def _confidences(
    logits: Float[Array, "B *T L"], y: Int[Array, " B *T"], mask: Float[Array, " B"]
) -> Float[Array, "B 3 15"]:
    weights = label_weights(y, mask.astype(jnp.float32)).reshape(len(y), -1)
    logits = logits.astype(jnp.float32).reshape(*weights.shape, logits.shape[-1])
    confidence = jax.nn.softmax(logits).max(-1)
    right = logits.argmax(-1).astype(jnp.int32) == y.astype(jnp.int32).reshape(weights.shape)
    return binned(weights, confidence, weights * right.astype(jnp.float32), _BINS)


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


def calibration_error(bins: NDArray[np.floating]) -> NDArray[np.float64]:
    """The mean of |accuracy - confidence| over the bins of `binned`, weighted by their counts.

    Example:
      >>> float(calibration_error(np.array([[1.0, 1.0], [0.4, 0.9], [0.0, 1.0]])))
      0.25

    Source: Guo, Pleiss, Sun, Weinberger, ICML 2017, arXiv:1706.04599.
    """
    count, confidence, correct = np.moveaxis(np.asarray(bins, np.float64), -2, 0)
    return ratio(np.abs(correct - confidence).sum(-1), count.sum(-1))


expected_calibration_error = Metric(
    _confidences,
    calibration_error,
    larger_is_better=False,
    about="The mean of |accuracy - confidence| over 15 equal bins of confidence.",
)


def confusion(
    logits: Float[Array, "B *T L"], y: Int[Array, " B *T"], mask: Float[Array, " B"]
) -> Float[Array, "B 3 L"]:
    """Of each row and class: true positives, predictions, and labels."""
    classes = logits.shape[-1]
    weights = label_weights(y, mask.astype(jnp.float32)).reshape(len(y), -1)
    labels = jnp.where(y >= 0, y, 0).astype(jnp.int32).reshape(weights.shape)
    guesses = logits.argmax(-1).astype(jnp.int32).reshape(weights.shape)
    count = jax.vmap(partial(jax.ops.segment_sum, num_segments=classes))
    right = weights * (labels == guesses).astype(jnp.float32)
    return jnp.stack([count(right, labels), count(weights, guesses), count(weights, labels)], 1)


def f1_of(sums: Any) -> NDArray[np.float64]:
    """``2 TP / (predictions + labels)`` of each class; NaN where a class never occurs."""
    right, predicted, labelled = np.moveaxis(np.asarray(sums, np.float64), -2, 0)
    return ratio(2 * right, predicted + labelled)


macro_f1 = Metric(
    confusion,
    lambda sums: mean_known(f1_of(sums)),
    about="The mean of F1 over the classes that occur among labels or predictions.",
)


def _one_against_rest(
    logits: Float[Array, "N L"], y: Int[Array, " N"], mask: Float[Array, " N"]
) -> tuple[Array, Array, Array]:
    weights = label_weights(y, mask.astype(jnp.float32))
    # Logits of different examples do not compare; probabilities do.
    scores = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jax.nn.one_hot(y, logits.shape[-1])
    return wins(scores, own, jnp.broadcast_to(weights[:, None], own.shape))


auc = Metric(
    _one_against_rest,
    area_under_curve,
    of_all=True,
    about="The area under the ROC curve of each class against the rest, averaged over the classes.",
)
