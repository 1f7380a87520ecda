"""How results spread over clients."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from fedjax_kd.metrics.tally import Tally


def headline(sums: Tally) -> Literal["accuracy", "loss"]:
    """The quantity of `over_clients`: accuracy, or the loss where targets are no labels."""
    return "loss" if sums.correct is None else "accuracy"


def over_clients(sums: Tally) -> dict[str, float]:
    """The spread of accuracy over clients that have test examples; tally leaves are ``[C, ...]``.

    Or that of the loss, where targets are no labels: a large one is bad.

    Mean and deviation (over clients, each counted once), quantiles, and the mean of the worst tenth
    of the clients (at least one).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from fedjax_kd.metrics import empty
      >>> four = jax.tree.map(lambda a: jnp.broadcast_to(a, (4, *a.shape)), empty())
      >>> four = four._replace(counted=jnp.full(4, 10.0), correct=jnp.array([2.0, 4.0, 6.0, 8.0]))
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
    count = np.asarray(sums.counted, np.float64)
    return np.asarray(values, np.float64) / np.where(count == 0, np.nan, count)
