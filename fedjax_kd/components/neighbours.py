"""A client's own examples as a classifier: the classes of those whose features are nearest."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar


class Datastore(NamedTuple):
    """Features and classes of stored examples; rows whose ``known`` is 0 are filling."""

    features: Float[Array, "E D"]
    labels: Int[Array, " E"]
    known: Float[Array, " E"]


def neighbour_probabilities(
    store: Datastore, features: Float[Array, "B D"], classes: int, k: int, scale: Scalar
) -> Float[Array, "B L"]:
    """Shares of the classes among the ``k`` nearest stored examples; zeros if nothing is stored.

    A neighbour at the squared distance d2 weighs ``exp(-d2 / (D scale))``, over the sum of these.

    Example:
      >>> store = Datastore(jnp.eye(2), jnp.array([0, 1]), jnp.ones(2))
      >>> neighbour_probabilities(store, jnp.eye(2)[:1], classes=2, k=1, scale=1.0)
      Array([[1., 0.]], dtype=float32)
    """
    known = store.known > 0
    own = jnp.where(known[:, None], store.features, 0)  # of filling, nothing may reach a sum
    products = jnp.matmul(features, own.T, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.square(features).sum(-1, keepdims=True) + jnp.square(own).sum(-1)[None]
    distances = jnp.where(known[None], jnp.maximum(lengths - 2 * products, 0), jnp.inf)
    nearest, which = jax.lax.top_k(-distances, min(k, len(known)))
    # Of far neighbours all weights would underflow: only differences of distances matter.
    behind = jnp.where(known[which], nearest - nearest[:, :1], -jnp.inf)
    width = jnp.asarray(features.shape[-1] * scale, behind.dtype)
    weights = jnp.where(known[which], jnp.exp(behind / width), 0)
    total = weights.sum(-1, keepdims=True)
    shares = weights / jnp.where(total == 0, 1, total)
    one_hot = jax.nn.one_hot(store.labels[which], classes, dtype=shares.dtype)
    return jnp.einsum("bk,bkl->bl", shares, one_hot, precision=jax.lax.Precision.HIGHEST)
