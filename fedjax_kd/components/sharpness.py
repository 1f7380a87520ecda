"""Gradients at a point beside the model, along which sharpness-aware methods descend.

The loss of the model plus a constant shift has, at the model, the gradient of the shifted point. So
the methods are objectives, and local training is as it always is: weight decay, corrections and
clipping apply at the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.objectives import Objective, gradient

Ascent = Callable[[PyTree, PyTree], PyTree]
"""(params, gradient there) -> the shift to the point whose gradient counts"""

_BIASES = ("bias", "b")  # as Flax and Haiku name them


def plain_ascent(rho: Scalar) -> Ascent:
    """A gradient step uphill, of learning rate ``rho``."""
    return lambda params, slope: tree.scale(rho, slope)


def sharp_ascent(rho: Scalar) -> Ascent:
    """To the highest loss at distance ``rho``, in first order (SAM).

    Example:
      >>> sharp_ascent(0.5)(None, jnp.array([3.0, -4.0])).round(3)
      Array([ 0.3, -0.4], dtype=float32)
    """
    return lambda params, slope: tree.scale(rho, direction_of(slope))


def adaptive_ascent(rho: Scalar, eta: Scalar) -> Ascent:
    """To the highest loss where each weight's way counts in units of ``|w| + eta`` (ASAM).

    For parameters named "bias" or "b" the unit is 1.

    Example:
      >>> ascent, params = adaptive_ascent(1.0, 0.5), {"kernel": 1.5, "bias": 9.0}
      >>> shift = ascent(params, {"kernel": 2.0, "bias": 3.0})  # (4, 3) has the norm 5
      >>> {name: round(float(value), 3) for name, value in shift.items()}
      {'bias': 0.6, 'kernel': 1.6}
    """

    def size(path: tuple, w: Any) -> Array:
        is_bias = bool(path) and getattr(path[-1], "key", None) in _BIASES
        return jnp.ones_like(w) if is_bias else jnp.abs(w) + jnp.asarray(eta, jnp.result_type(w))

    def ascent(params: PyTree, slope: PyTree) -> PyTree:
        sizes = jax.tree_util.tree_map_with_path(size, params)
        uphill = direction_of(jax.tree.map(jnp.multiply, sizes, slope))
        return tree.scale(rho, jax.tree.map(jnp.multiply, sizes, uphill))

    return ascent


def direction_of(a: PyTree) -> PyTree:
    """The tree over its norm; zeros stay zeros.

    Example:
      >>> direction_of({"w": jnp.zeros(2)})
      {'w': Array([0., 0.], dtype=float32)}
    """
    norm = jnp.sqrt(tree.sq_norm(a))
    return tree.scale(1 / jnp.where(norm == 0, 1, norm), a)


def shifted(loss: Objective, shift: PyTree) -> Objective:
    """The loss of the model at a constant distance from where it is; costs one gradient."""

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        return loss(model._replace(params=tree.add(model.params, shift)), batch, key)

    return objective


def uphill(loss: Objective, ascent: Ascent, share: Scalar | None = None) -> Objective:
    """The loss at the point that an ascent on the same batch leads to; costs two gradients.

    Both passes see the same augmentation and dropout. Running statistics are those of the first,
    since they belong to the model. With ``batch_size=0`` each piece of
    `fedjax_kd.losses.objectives.MICROBATCH` examples ascends on its own.

    Args:
      loss: the objective.
      ascent: from params and gradient to the shift.
      share: of the gradient there, the rest being that at the model itself; all if not given.
    """

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        held = jax.lax.stop_gradient(model)
        _, stats, slope = jax.lax.stop_gradient(gradient(loss, held, batch, key))
        there = shifted(loss, ascent(held.params, slope))
        objective = there if share is None else steered(there, share, slope)
        return objective(model, batch, key)[0], stats

    return objective


def steered(loss: Objective, share: Scalar, direction: PyTree) -> Objective:
    """The loss with the gradient ``share * grad + (1 - share) * direction``."""

    def objective(model: Variables, *args: Any) -> tuple[Array, PyTree]:
        value, stats = loss(model, *args)
        # The gradient of a linear term is its direction. Both terms are 0 beside the loss, so that
        # it is reported as it is.
        here, params = jax.lax.stop_gradient((value, model.params))
        along = tree.dot(direction, tree.sub(model.params, params))
        return here + share * (value - here) + (1 - share) * along, stats

    return objective
