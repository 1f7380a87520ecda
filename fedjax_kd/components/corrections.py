"""Local losses whose gradient is corrected: by a constant, towards a point, by other examples.

SCAFFOLD, FedDyn, FedDC, MIME and FedMoSWA correct each local gradient, and differ in what they
correct it by. As terms of the loss corrections hold for every local optimiser, and clipping sees
the whole.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.objectives import Objective, gradient, plus


def corrected(loss: Objective, correction: PyTree) -> Objective:
    """``loss(w) + <correction, w>``: the correction is added to each gradient.

    Example:
      >>> zero = lambda model, batch, key: (0.0, ())
      >>> gradient(corrected(zero, {"w": 2.0}), Variables({"w": 1.0}), None, None)[2]
      {'w': Array(2., dtype=float32, weak_type=True)}
    """
    return plus(loss, lambda model: tree.dot(correction, model.params))


def tethered(loss: Objective, strength: Scalar, anchor: PyTree) -> Objective:
    """``loss(w) + strength / 2 * ||w - anchor||^2``: a spring holds params near the anchor's.

    Example:
      >>> zero = lambda model, batch, key: (0.0, ())
      >>> gradient(tethered(zero, 0.5, {"w": 3.0}), Variables({"w": 1.0}), None, None)[2]
      {'w': Array(-1., dtype=float32, weak_type=True)}
    """

    def spring(model: Variables) -> Array:
        square = tree.sq_norm(tree.sub(model.params, anchor))
        return 0.5 * jnp.asarray(strength, square.dtype) * square

    return plus(loss, spring)


def with_gradient_at(loss: Objective, anchor: Variables, slope: PyTree) -> Objective:
    """The loss with the gradient ``grad f(w; B) - grad f(anchor; B) + slope`` (SVRG).

    Both gradients see the same batch, augmentation and dropout, so that at the anchor the sum is
    ``slope``, whatever the batch. It costs two gradients.
    """

    @wraps(loss)
    def objective(model: Variables, batch: Batch, key: Key, **step: Any) -> tuple[Array, PyTree]:
        def at(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            return loss(model, batch, key, **step)

        _, _, there = jax.lax.stop_gradient(gradient(at, anchor, batch, key))
        return corrected(at, tree.sub(slope, there))(model, batch, key)

    return objective
