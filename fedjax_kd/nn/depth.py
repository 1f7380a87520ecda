"""Stochastic depth: residual branches that are left out at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.options import checks_options


class StochasticDepth(nnx.Module):
    """A residual branch kept or left out at random before it is added to its shortcut.

    In training one draw for the whole batch keeps it or leaves it out; in evaluation it is
    multiplied by the probability to be kept.

    Source: Huang, Sun, Liu, Sedra, Weinberger, ECCV 2016, arXiv:1603.09382.
    """

    def __init__(self, survival: float, *, rngs: nnx.Rngs) -> None:
        self.survival, self.deterministic = survival, False
        self.rngs = rngs["dropout"].fork()

    def __call__(self, branch: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        if self.deterministic:
            return branch * jnp.asarray(self.survival, branch.dtype)
        return jnp.where(jax.random.bernoulli(self.rngs(), self.survival), branch, 0)


@checks_options
def decay(survival: float, blocks: int) -> tuple[float, ...]:
    """The probability of each block to be kept: from 1 for the first one down to ``survival``.

    Args:
      survival: of the last block, in (0, 1]; 0.5 is usual, 1 keeps all blocks.
      blocks: how many, >= 1.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> decay(0.5, 3)
      (1.0, 0.75, 0.5)
    """
    return tuple(1 - number * (1 - survival) / max(blocks - 1, 1) for number in range(blocks))
