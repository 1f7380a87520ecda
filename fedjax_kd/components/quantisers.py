"""Stochastic quantisers of vectors: uniform levels, QSGD, TernGrad, and scaled signs.

Each takes the random numbers of its rounding, uniform in [0, 1), as an argument.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar


class Coded(NamedTuple):
    """What a receiver decodes, and the whole numbers that travel."""

    decoded: Float[Array, " n"]
    codes: Int[Array, " n"]  # from 0
    variance: Float[Array, ""]  # of the decoded vector, summed over its entries


def rounded(values: Float[Array, " n"], draws: Float[Array, " n"]) -> Float[Array, " n"]:
    """Numbers rounded up with the probability of what they exceed their floor by, else down.

    Example:
      >>> rounded(jnp.array([0.25, 0.25, 3.0]), jnp.array([0.2, 0.3, 0.0]))
      Array([1., 0., 3.], dtype=float32)
    """
    below = jnp.floor(values)
    return below + (draws < values - below).astype(values.dtype)


def uniform_levels(values: Float[Array, " n"], draws: Float[Array, " n"], levels: int) -> Coded:
    """Stochastic rounding to levels between the least and the largest (Suresh et al., 2017).

        t = (v - min) / (max - min) * (levels - 1);  level = floor(t), or one more

    The mean is ``v``. A constant vector is decoded as it is.

    Example:
      >>> uniform_levels(jnp.array([0.0, 0.4, 1.0]), jnp.array([0.9, 0.5, 0.9]), levels=2)[0]
      Array([0., 0., 1.], dtype=float32)
    """
    low, high = values.min(), values.max()
    width = jnp.where(high > low, high - low, 1)
    exact, step = (values - low) / width * (levels - 1), width / (levels - 1)
    level = rounded(exact, draws)
    return Coded(low + level * step, level.astype(jnp.int32), _variance(exact) * step**2)


def qsgd(values: Float[Array, " n"], draws: Float[Array, " n"], steps: int) -> Coded:
    """QSGD: stochastic rounding of sizes to ``steps`` parts of the norm (Alistarh et al., 2017).

        t = steps |v| / ||v||;  level = floor(t), or one more
        decoded = ||v|| sign(v) level / steps

    Codes are signed levels, from 0 for ``-steps`` on. The mean is ``v``.

    Example:
      >>> qsgd(jnp.array([3.0, -4.0]), jnp.array([0.5, 0.9]), steps=1)[:2]
      (Array([ 5., -0.], dtype=float32), Array([2, 1], dtype=int32))
    """
    norm = jnp.linalg.norm(values)
    unit = values / jnp.where(norm > 0, norm, 1)
    exact = steps * jnp.abs(unit)
    level = jnp.sign(values) * rounded(exact, draws)
    variance = _variance(exact) * jnp.square(norm / steps)
    return Coded(norm * level / steps, level.astype(jnp.int32) + steps, variance)


def ternary(values: Float[Array, " n"], draws: Float[Array, " n"], clip: Scalar) -> Coded:
    """TernGrad: signs of the largest size, or zero, by chance (Wen et al., 2017).

        v = clip(v, -c sigma, c sigma);  decoded = max|v| sign(v) with probability |v| / max|v|

    with the deviation sigma of the vector. The mean is the clipped ``v``.

    Example:
      >>> ternary(jnp.array([1.0, -0.5, 0.0]), jnp.array([0.9, 0.6, 0.0]), clip=2.5)[:2]
      (Array([ 1., -0.,  0.], dtype=float32), Array([2, 1, 1], dtype=int32))
    """
    bound = jnp.asarray(clip, values.dtype) * values.std()
    kept = jnp.clip(values, -bound, bound)
    largest = jnp.abs(kept).max()
    share = jnp.abs(kept) / jnp.where(largest > 0, largest, 1)
    signs = jnp.sign(kept) * (draws < share).astype(values.dtype)
    variance = _variance(share) * jnp.square(largest)
    return Coded(largest * signs, signs.astype(jnp.int32) + 1, variance)


def scaled_sign(values: Float[Array, " n"]) -> Coded:
    """Signs times the mean size (Karimireddy et al., 2019); zero counts as positive.

    Example:
      >>> scaled_sign(jnp.array([3.0, -1.0]))[:2]
      (Array([ 2., -2.], dtype=float32), Array([1, 0], dtype=int32))
    """
    positive = values >= 0
    signs = jnp.where(positive, 1, -1).astype(values.dtype)
    decoded = jnp.abs(values).mean() * signs
    return Coded(decoded, positive.astype(jnp.int32), jnp.zeros((), values.dtype))


def steadied(values: Float[Array, " n"], coded: Coded) -> Coded:
    """The decoded vector as short as is nearest to the true one, by expectation.

        decoded * ||v||^2 / (||v||^2 + variance)

    What was left out is then shorter than ``v``, where chance may make it any multiple: a memory of
    it stays bounded.

    Example:
      >>> coded = ternary(jnp.array([1.0, 0.5]), jnp.array([0.9, 0.4]), clip=9.0)
      >>> steadied(jnp.array([1.0, 0.5]), coded).decoded
      Array([0.8333333, 0.8333333], dtype=float32)
    """
    square = jnp.square(values).sum()
    factor = square / jnp.where(square > 0, square + coded.variance, 1)
    return coded._replace(decoded=factor * coded.decoded)


def _variance(exact: Array) -> Array:
    """Of numbers after `rounded`, summed."""
    share = exact - jnp.floor(exact)
    return (share * (1 - share)).sum()
