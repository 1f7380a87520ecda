"""Measures of predictions that can be added up over batches, clients and devices."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from fedjax_kd.losses import cross_entropy, label_weights

_BINS = 15


class Tally(NamedTuple):
    """Sums over predictions; two tallies are added leaf by leaf."""

    labels: Float[Array, ""]  # how many were counted
    loss: Float[Array, ""]
    correct: Float[Array, ""]
    bins: Float[Array, "3 15"]  # by confidence: how many, sum of confidences, how many correct


def tally(
    logits: Float[Array, " B *T L"], y: Int[Array, " B *T"], mask: Float[Array, " B"]
) -> Tally:
    """A tally of each row, leaves ``[B, ...]``; rows with mask 0 and labels of -1 count nothing.

    Example:
      >>> rows = tally(jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.array([0, 1]), jnp.ones(2))
      >>> rows.labels.tolist(), rows.correct.tolist()
      ([1.0, 1.0], [1.0, 0.0])
    """
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


def empty() -> Tally:
    """The tally of no predictions."""
    zero = jnp.zeros((), jnp.float32)
    return Tally(zero, zero, zero, jnp.zeros((3, _BINS), jnp.float32))


def summary(sums: Tally) -> dict[str, float]:
    """Mean loss (nats), accuracy in [0, 1] and expected calibration error of a tally.

    The error is the mean over 15 equal bins of confidence of |accuracy - confidence|, weighted by
    the bins' counts. All three are NaN where nothing was counted.

    Source: Guo, Pleiss, Sun, Weinberger, ICML 2017, arXiv:1706.04599.
    """
    count = float(sums.labels) or float("nan")
    _, confidence, correct = np.asarray(sums.bins)
    return {
        "loss": float(sums.loss) / count,
        "accuracy": float(sums.correct) / count,
        "ece": float(np.abs(correct - confidence).sum()) / count,
    }


def over_clients(sums: Tally) -> dict[str, float]:
    """The spread of accuracy over clients that have test examples; tally leaves are ``[C, ...]``.

    Mean and deviation (over clients, each counted once), quantiles, and the mean of the worst tenth
    of the clients (at least one).

    Example:
      >>> four = jax.tree.map(lambda a: jnp.broadcast_to(a, (4, *a.shape)), empty())
      >>> four = four._replace(labels=jnp.full(4, 10.0), correct=jnp.array([2.0, 4.0, 6.0, 8.0]))
      >>> {k: round(v, 2) for k, v in over_clients(four).items() if k in ("mean", "worst_decile")}
      {'mean': 0.5, 'worst_decile': 0.2}
    """
    accuracy = np.sort(client_accuracy(sums))
    accuracy = accuracy[~np.isnan(accuracy)]
    if len(accuracy) == 0:
        accuracy = np.array([np.nan])
    quantiles = {f"q{q:02d}": float(np.quantile(accuracy, q / 100)) for q in (5, 25, 50, 75, 95)}
    return {
        "mean": float(accuracy.mean()),
        "std": float(accuracy.std()),
        **quantiles,
        "worst_decile": float(accuracy[: max(len(accuracy) // 10, 1)].mean()),
    }


def client_accuracy(sums: Tally) -> NDArray[np.float64]:
    """Accuracy of each client ``[C]``; NaN where a client has no test examples."""
    count = np.asarray(sums.labels, np.float64)
    return np.asarray(sums.correct, np.float64) / np.where(count == 0, np.nan, count)
