"""What liars among the clients send, for simulations of robust rules."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fedjax_kd import tree
from fedjax_kd.core import Scalar


def liars(population: int, share: Scalar, seed: int) -> Bool[Array, " C"]:
    """Who of the clients lies: the same ones in all rounds, ``share * C`` rounded.

    Example:
      >>> liars(10, 0.3, seed=0).sum()
      Array(3, dtype=int32)
    """
    ranks = np.random.default_rng(seed).permutation(population)
    return jnp.asarray(ranks, jnp.int32) < jnp.round(jnp.asarray(share * population)).astype(
        jnp.int32
    )


def mirrored(labels: Int[Array, " M"], classes: int) -> Int[Array, " M"]:
    """Each class in place of the one as far from the other end: ``y -> L - 1 - y``.

    Example:
      >>> mirrored(jnp.array([0, 1, 9]), 10)
      Array([9, 8, 0], dtype=int32)
    """
    return classes - 1 - labels


def hidden_in_the_spread(
    uploads: Sequence[Float[Array, "K ..."]], honest: Float[Array, " K"], z: Array
) -> list[Array]:
    """ALIE: as far from the honest mean as honest clients are (Baruch et al., 2019).

        mu - z s, with the mean and the deviation of each coordinate over the honest

    Args:
      uploads: of all clients.
      honest: 1 for those that are there and do not lie.
      z: deviations; `largest_hidden` is the authors' choice.
    """
    middle = tree.weighted_mean(uploads, honest)
    away = [jnp.square(a - m[None]) for a, m in zip(uploads, middle, strict=True)]
    spread = tree.weighted_mean(away, honest)
    return [m - z.astype(m.dtype) * jnp.sqrt(s) for m, s in zip(middle, spread, strict=True)]


def largest_hidden(present: Array, lying: Array) -> Float[Array, ""]:
    """ALIE's z: how far a liar may go while enough honest clients lie further out.

        z = Phi^-1((n - m - q) / (n - m)),  q = floor(n / 2 + 1) - m

    for n clients of whom m lie; 0 where that is no number or negative.

    Example:
      >>> largest_hidden(jnp.float32(11), jnp.float32(2)).round(4)
      Array(0.1397, dtype=float32)
    """
    honest = present - lying
    needed = jnp.floor(present / 2 + 1) - lying
    found = jax.scipy.stats.norm.ppf((honest - needed) / jnp.maximum(honest, 1))
    return jnp.where(jnp.isfinite(found), jnp.maximum(found, 0), 0)


def against_the_mean(
    uploads: Sequence[Float[Array, "K ..."]], honest: Float[Array, " K"], strength: Scalar
) -> list[Array]:
    """IPM: a multiple of the honest mean, with the other sign (Xie, Koyejo, Gupta, 2019)."""
    return [-strength * m for m in tree.weighted_mean(uploads, honest)]
