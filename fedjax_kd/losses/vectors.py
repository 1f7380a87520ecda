"""Lengths, directions and angles whose gradients stay finite, at the zero vector too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TINY = 1e-12  # below this, the largest entry of a vector counts as zero


def length(x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """The Euclidean length along the last axis; the zero vector's gradient is zero.

    Example:
      >>> length(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
      Array([5., 0.], dtype=float32)
    """
    there, scaled, largest = _scaled(x)
    lengths = largest * jnp.sqrt(jnp.square(scaled).sum(-1, keepdims=True))
    return jnp.where(there, lengths, 0).squeeze(-1)


def normalised(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Vectors of length 1 along the last axis; the zero vector stays, and its gradient is zero.

    Example:
      >>> normalised(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """
    there, scaled, _ = _scaled(x)
    return jnp.where(there, scaled / jnp.sqrt(jnp.square(scaled).sum(-1, keepdims=True)), 0)


def cosine_similarity(a: Float[Array, "*B D"], b: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """The cosine of the angle between two vectors; 0, without a gradient, if one of them is zero.

    Example:
      >>> cosine_similarity(jnp.array([1.0, 0.0]), jnp.array([-2.0, 0.0]))
      Array(-1., dtype=float32)
    """
    return (normalised(a) * normalised(b)).sum(-1)


def _scaled(x: Array) -> tuple[Array, Array, Array]:
    """Whether a vector is not zero, the vector with entries up to 1, and its largest entry."""
    # The scale may be a constant to gradients: a direction does not depend on it, and a length is
    # proportional to it. Without it the squares of 1e20 would overflow.
    largest = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    there = largest > _TINY
    return there, jnp.where(there, x, 1) / jnp.where(there, largest, 1), largest
