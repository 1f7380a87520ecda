"""How far the label distributions of clients are from one that they should have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from fedjax_kd import losses

LabelDistance = Literal["kl", "l1", "l2", "cosine"]
LabelIdeal = Literal["uniform", "cohort"]


def label_distances(
    counts: Float[Array, "K L"], distance: LabelDistance, ideal: LabelIdeal
) -> Float[Array, " K"]:
    """The distance of each client's shares of the classes from the ideal.

    Divergences are of the client from the ideal, so that a client may lack classes; they are
    divided by their sum over the clients. A client without labels is at the ideal.

    Args:
      counts: labels of each class, those of clients that do not count all 0.
      distance: "kl", "l1", "l2", or "cosine", which is 1 - cosine.
      ideal: "uniform", or the labels of the "cohort" together.

    Example:
      >>> label_distances(jnp.array([[4.0, 0.0], [2.0, 2.0]]), "l1", "uniform")
      Array([1., 0.], dtype=float32)
    """
    own = counts.sum(1, keepdims=True)
    together = counts if ideal == "cohort" else jnp.ones_like(counts)
    aim = (together.sum(0) / jnp.maximum(together.sum(), 1))[None]
    shares = jnp.where(own > 0, counts / jnp.maximum(own, 1), aim)
    return _DISTANCES[distance](shares, aim)


def _divergence(shares: Array, aim: Array) -> Array:
    # The cohort has all classes of its clients: where the ideal is 0, so are the shares.
    values = (xlogy(shares, shares) - xlogy(shares, aim)).sum(1)
    together = values.sum()
    return values / jnp.where(together > 0, together, 1)


def _cosine(shares: Array, aim: Array) -> Array:
    return 1 - (losses.normalised(shares) * losses.normalised(aim)).sum(1)


_DISTANCES: dict[LabelDistance, Callable[[Array, Array], Array]] = {
    "kl": _divergence,
    "l1": lambda shares, aim: jnp.abs(shares - aim).sum(1),
    "l2": lambda shares, aim: jnp.sqrt(jnp.square(shares - aim).sum(1)),
    "cosine": _cosine,
}
