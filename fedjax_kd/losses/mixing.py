"""Mixup: examples and their labels are mixed in pairs, as a function of a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Batch, Key, PyTree, Scalar
from fedjax_kd.errors import InputTypeError
from fedjax_kd.options import checks_options


class Mixed(NamedTuple):
    """A batch of mixed inputs, whose ``y`` are the first labels, and the partners' labels."""

    batch: Batch
    partner_y: PyTree
    share: Float[Array, ""]  # of the first example, the same for the whole batch


@checks_options
def mixup(key: Key, batch: Batch, gamma: Scalar) -> Mixed:
    """Mixes each real example with another one; the key is consumed.

        lam ~ Beta(gamma, gamma), once a batch;  x' = lam x + (1 - lam) x[partner]

    Filling rows stay and are no partners. Bytes are rounded, so that they stay pixels. The
    loss of the model's outputs on ``batch.x`` is `mixed_loss` of the losses against both labels.

    Args:
      key: of the share and the partners.
      batch: inputs are floats or bytes.
      gamma: >= 0, the larger the more are mixed; 0 mixes nothing. 0.1 to 0.4 are usual.

    Raises:
      ValueError: if ``gamma`` is a number < 0.
      TypeError: if inputs are symbols, which cannot be mixed.

    Example:
      >>> batch = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]), jnp.ones(2))
      >>> mixup(jax.random.key(0), batch, gamma=0.0).batch.x.tolist()
      [[0.0], [1.0]]

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv:1710.09412.
    """
    key_share, key_partner = jax.random.split(key)
    strength = jnp.asarray(gamma, jnp.float32)
    mixes = strength > 0
    positive = jnp.where(mixes, strength, 1)
    drawn = jax.random.beta(key_share, positive, positive, dtype=jnp.float32)
    share = jnp.where(mixes, drawn, 1)
    return mixed_with(batch, _partners(key_partner, batch.mask), share)


def mixed_with(batch: Batch, partner: Int[Array, " B"], share: Float[Array, ""]) -> Mixed:
    """Mixes each example with the row ``partner``, which has the weight ``1 - share``.

    Raises:
      TypeError: if inputs are symbols, which cannot be mixed.

    Example:
      >>> batch = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]), jnp.ones(2))
      >>> mixed_with(batch, jnp.array([1, 0]), jnp.array(0.75)).batch.x.tolist()
      [[0.25], [0.75]]
    """

    def mix(x: Array) -> Array:
        floats = jnp.issubdtype(x.dtype, jnp.floating)
        if not floats and x.dtype != jnp.uint8:
            raise InputTypeError(
                f"Inputs are {x.dtype}, but only floats and bytes can be mixed: symbols have "
                "numbers and no values between them."
            )
        values = x if floats else x.astype(jnp.float32)
        weight = share.astype(values.dtype)
        mixed = weight * values + (1 - weight) * values[partner]
        return mixed if floats else jnp.rint(mixed).astype(x.dtype)

    y = jax.tree.map(lambda leaf: leaf[partner], batch.y)
    return Mixed(batch._replace(x=jax.tree.map(mix, batch.x)), y, share)


def mixed_loss(
    values: Float[Array, "*B"], partner_values: Float[Array, "*B"], share: Float[Array, ""]
) -> Float[Array, "*B"]:
    """``share`` of the losses against the first labels, and the rest against the partners'.

    Example:
      >>> mixed_loss(jnp.array([1.0]), jnp.array([2.0]), jnp.array(0.75))
      Array([1.25], dtype=float32)
    """
    weight = share.astype(values.dtype)
    return weight * values + (1 - weight) * partner_values


def _partners(key: Key, mask: Float[Array, " B"]) -> Int[Array, " B"]:
    """A random permutation of the real rows; filling rows are their own partners."""
    real = mask > 0
    order = jnp.argsort(jnp.where(real, jax.random.uniform(key, mask.shape), 2))
    rank = jnp.cumsum(real, dtype=jnp.int32) - 1
    return jnp.where(
        real, order.astype(jnp.int32)[jnp.maximum(rank, 0)], jnp.arange(len(mask), dtype=jnp.int32)
    )
