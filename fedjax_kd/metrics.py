"""Measures of predictions that can be added up over batches, clients and devices."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num
from numpy.typing import NDArray

from fedjax_kd import tree
from fedjax_kd.core import PyTree
from fedjax_kd.losses import are_labels, cross_entropy, label_weights, squared_error

_BINS = 15


class Tally(NamedTuple):
    """Sums over predictions; two tallies are added leaf by leaf.

    Where targets are values and no labels, nothing can be right or wrong: the last two are None.
    """

    labels: Float[Array, ""]  # how many were counted; examples, where targets are values
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
      >>> rows.labels.tolist(), rows.correct.tolist()
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
    sums = jnp.stack([weights, weights * confidence, correct], axis=1)
    return sums @ jax.nn.one_hot(place, bins, dtype=sums.dtype)


def total(tallies: Tally) -> Tally:
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
    count = float(sums.labels) or float("nan")
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


def measure(sums: Tally) -> Literal["accuracy", "loss"]:
    """What `over_clients` is about: the loss where targets are no labels."""
    return "loss" if sums.correct is None else "accuracy"


def over_clients(sums: Tally) -> dict[str, float]:
    """The spread of accuracy over clients that have test examples; tally leaves are ``[C, ...]``.

    Or that of the loss, where targets are no labels: a large one is bad.

    Mean and deviation (over clients, each counted once), quantiles, and the mean of the worst tenth
    of the clients (at least one).

    Example:
      >>> four = jax.tree.map(lambda a: jnp.broadcast_to(a, (4, *a.shape)), empty())
      >>> four = four._replace(labels=jnp.full(4, 10.0), correct=jnp.array([2.0, 4.0, 6.0, 8.0]))
      >>> {k: round(v, 2) for k, v in over_clients(four).items() if k in ("mean", "worst_decile")}
      {'mean': 0.5, 'worst_decile': 0.2}
    """
    by_accuracy = sums.correct is not None
    values = np.sort(client_accuracy(sums) if by_accuracy else client_loss(sums))
    values = values[~np.isnan(values)]
    if len(values) == 0:
        values = np.array([np.nan])
    worst_first = values if by_accuracy else values[::-1]
    quantiles = {f"q{q:02d}": float(np.quantile(values, q / 100)) for q in (5, 25, 50, 75, 95)}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        **quantiles,
        "worst_decile": float(worst_first[: max(len(values) // 10, 1)].mean()),
    }


def client_accuracy(sums: Tally) -> NDArray[np.float64]:
    """Accuracy of each client ``[C]``; NaN where a client has no test examples."""
    return _mean(sums.correct, sums)


def client_loss(sums: Tally) -> NDArray[np.float64]:
    """Mean loss of each client ``[C]``; NaN where a client has no test examples."""
    return _mean(sums.loss, sums)


def _mean(values: Array | None, sums: Tally) -> NDArray[np.float64]:
    """A sum of each client, over what was counted."""
    count = np.asarray(sums.labels, np.float64)
    return np.asarray(values, np.float64) / np.where(count == 0, np.nan, count)


class ClassTally(NamedTuple):
    """Sums over predictions, class by class; two tallies are added leaf by leaf."""

    labels: Float[Array, " L"]  # how many of each class were counted
    correct: Float[Array, " L"]


def class_tally(
    logits: Float[Array, " B *T L"], y: Int[Array, " B *T"], mask: Float[Array, " B"]
) -> ClassTally:
    """The tally of a batch by the labels' classes; labels of -1 and rows with mask 0 count nothing.

    Example:
      >>> rows = class_tally(jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.array([0, 1]), jnp.ones(2))
      >>> rows.labels.tolist(), rows.correct.tolist()
      ([1.0, 1.0], [1.0, 0.0])
    """
    labels = y.astype(jnp.int32)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    own = own * label_weights(labels, mask).astype(jnp.float32)[..., None]
    right = (logits.argmax(-1).astype(jnp.int32) == labels).astype(jnp.float32)[..., None]
    rows = tuple(range(labels.ndim))
    return ClassTally(own.sum(rows), (own * right).sum(rows))


def class_accuracy(sums: ClassTally) -> Float[Array, "*R L"]:
    """Accuracy of each class in [0, 1]; NaN where nothing of a class was counted."""
    counted = sums.labels > 0
    return jnp.where(counted, sums.correct / jnp.where(counted, sums.labels, 1), jnp.nan)


def forgetting(accuracy: Float[Array, "R L"]) -> Float[Array, ""]:
    """FedNTD's F: how much of each class's best accuracy the last round has lost.

        F = mean_l max_{r < R - 1} (accuracy[r, l] - accuracy[R - 1, l])

    Args:
      accuracy: of each class after each round, by the server's model, see `class_accuracy`. A class
        that is NaN in any round is left out.

    Raises:
      ValueError: if there are fewer than two rounds.

    Example:
      >>> forgetting(jnp.array([[0.9, 0.2], [0.5, 0.4], [0.6, 0.3]]))
      Array(0.2, dtype=float32)

    Source: Lee, Jeong, Shin, Bae, Yun, NeurIPS 2022, arXiv:2106.03097.
    """
    if len(accuracy) < 2:
        raise ValueError(
            f"There are {len(accuracy)} rounds, but only what a round before the last has known "
            "can be forgotten: give the accuracies of at least 2."
        )
    lost = accuracy[:-1].max(0) - accuracy[-1]
    known = ~jnp.isnan(lost)
    return jnp.where(known, lost, 0).sum() / known.sum().astype(lost.dtype)


def weight_divergence(model: PyTree, reference: PyTree) -> Float[Array, ""]:
    """How far two models lie apart, in units of the second: ``||w - v|| / ||v||``.

    The reference is a model that was trained on all data at once, from the same initial one, for as
    many steps. ``jax.tree.map(weight_divergence, model, reference)`` compares parameter by
    parameter. Infinite if only the reference is zero, 0 if both are.

    Example:
      >>> weight_divergence({"w": jnp.array([3.0, 8.0])}, {"w": jnp.array([3.0, 4.0])})
      Array(0.8, dtype=float32)

    Source: Zhao, Li, Lai, Suda, Civin, Chandra, 2018, arXiv:1806.00582.
    """
    apart = jnp.sqrt(tree.sq_norm(tree.sub(model, reference)))
    size = jnp.sqrt(tree.sq_norm(reference))
    against_zero = jnp.where(apart > 0, jnp.inf, 0).astype(apart.dtype)
    return jnp.where(size > 0, apart / jnp.where(size > 0, size, 1), against_zero)
