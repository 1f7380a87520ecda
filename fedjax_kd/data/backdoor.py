"""Backdoors: a pattern in inputs that a model is made to answer with one class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from fedjax_kd.core import Pool
from fedjax_kd.errors import InputError

_SIDE = 3  # pixels of the pattern's square, or features


class Trigger(NamedTuple):
    """A pattern, and the class with which inputs that have it are to be answered."""

    stamp: Callable[[Array], Array]  # inputs [N, ...] -> inputs with the pattern
    target: int


def trigger_of(pool: Pool, target: int) -> Trigger:
    """A bright square in the lower right corner of pictures; of vectors the last features.

    Bright is the largest number among all inputs.

    Args:
      pool: whose inputs are ``[M, H, W, C]`` or ``[M, D]``.
      target: the class.

    Raises:
      ValueError: if inputs are of another form.
    """
    x = pool.x
    if not isinstance(x, jnp.ndarray | np.ndarray) or x.ndim not in (2, 4):
        raise InputError(
            "A backdoor is a pattern in pictures [H, W, C] or vectors [D], but inputs are of "
            "another form: choose another attack."
        )
    return Trigger(partial(_stamped, bright=jnp.max(x)), target)


def _stamped(x: Shaped[Array, "N ..."], bright: Array) -> Shaped[Array, "N ..."]:
    """Inputs with the pattern.

    Example:
      >>> _stamped(jnp.zeros((1, 4)), jnp.float32(9.0))
      Array([[0., 9., 9., 9.]], dtype=float32)
    """
    bright = bright.astype(x.dtype)
    if x.ndim == 2:
        return x.at[:, -_SIDE:].set(bright)
    return x.at[:, -_SIDE:, -_SIDE:].set(bright)


def triggered(test: Pool, trigger: Trigger) -> Pool:
    """Test rows of other classes with the pattern, labelled by its target: one set of rows.

    The accuracy on them is the success of the attack.
    """
    rows = np.asarray(test.rows)
    rows = rows[np.asarray(test.y)[rows] != trigger.target]
    count = len(rows)
    return Pool(
        trigger.stamp(jnp.asarray(test.x)[rows]),
        jnp.full(count, trigger.target, test.y.dtype),
        jnp.arange(count, dtype=jnp.int32),
        jnp.zeros(1, jnp.int32),
        jnp.full(1, count, jnp.int32),
    )
