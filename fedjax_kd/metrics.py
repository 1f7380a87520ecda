"""Measures of predictions that can be added up over batches, clients and devices."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
    place = jnp.clip(jnp.ceil(confidence * _BINS) - 1, 0, _BINS - 1).astype(jnp.int32)
    sums = jnp.stack([weights, weights * confidence, correct], axis=1)
    return Tally(
        weights.sum(1),
        (weights * loss.astype(jnp.float32)).sum(1),
        correct.sum(1),
        sums @ jax.nn.one_hot(place, _BINS, dtype=jnp.float32),
    )


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
    _, confidence, correct = np.asarray(sums.bins)
    return {
        "loss": loss,
        "accuracy": float(sums.correct) / count,
        "ece": float(np.abs(correct - confidence).sum()) / count,
    }


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
