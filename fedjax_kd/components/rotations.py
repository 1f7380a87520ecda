"""Random rotations by the Walsh-Hadamard transform, and DRIVE, which sends their signs."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.core import Key

DriveScale = Literal["unbiased", "least_error"]


def padded_length(count: int) -> int:
    """The next power of two.

    Example:
      >>> padded_length(33), padded_length(1)
      (64, 1)
    """
    return 1 << (count - 1).bit_length()


def hadamard(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """The Walsh-Hadamard transform in Sylvester's order, over sqrt(n): its own inverse.

    Args:
      vector: whose length is a power of two.

    Example:
      >>> hadamard(jnp.array([2.0, 0.0, 0.0, 0.0]))
      Array([1., 1., 1., 1.], dtype=float32)
    """
    count, width = len(vector), 1
    while width < count:
        pairs = vector.reshape(-1, 2, width)
        first, second = pairs[:, 0], pairs[:, 1]
        vector = jnp.stack([first + second, first - second], axis=1).reshape(count)
        width *= 2
    return vector / jnp.sqrt(jnp.asarray(count, vector.dtype))


def signs_of(key: Key, count: int, dtype: jnp.dtype) -> Float[Array, " n"]:
    """The diagonal of a rotation of a vector of ``count`` numbers, after padding."""
    return jax.random.rademacher(key, (padded_length(count),), dtype)


def rotated(vector: Float[Array, " d"], signs: Float[Array, " n"]) -> Float[Array, " n"]:
    """``H D v / sqrt(n)``, of a vector padded by zeros to the length of the diagonal D."""
    padding = jnp.zeros(len(signs) - len(vector), vector.dtype)
    return hadamard(signs * jnp.concatenate([vector, padding]))


def rotated_back(
    vector: Float[Array, " n"], signs: Float[Array, " n"], count: int
) -> Float[Array, " d"]:
    """The inverse of `rotated`: ``D H r / sqrt(n)``, cut to ``count`` numbers.

    Example:
      >>> signs = jnp.array([1.0, -1.0, -1.0, 1.0])
      >>> rotated_back(rotated(jnp.array([1.0, 2.0, 3.0]), signs), signs, 3)
      Array([1., 2., 3.], dtype=float32)
    """
    return (signs * hadamard(vector))[:count]


def drive(vector: Float[Array, " n"], scale: DriveScale = "unbiased") -> Float[Array, " n"]:
    """The signs of a rotated vector and one number (Vargaftik et al., 2021).

        S = ||r||^2 / ||r||_1  ("unbiased"),  or  ||r||_1 / n  ("least_error");  decoded = S sign(r)

    Zero counts as positive; a vector of zeros is decoded as it is.

    Example:
      >>> drive(jnp.array([3.0, -1.0])), drive(jnp.array([3.0, -1.0]), "least_error")
      (Array([ 2.5, -2.5], dtype=float32), Array([ 2., -2.], dtype=float32))
    """
    sizes = jnp.abs(vector).sum()
    if scale == "unbiased":
        factor = jnp.square(vector).sum() / jnp.where(sizes > 0, sizes, 1)
    else:
        factor = sizes / len(vector)
    return factor * jnp.where(vector >= 0, 1, -1).astype(vector.dtype)
