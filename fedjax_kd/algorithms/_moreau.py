"""The gradient of a loss's Moreau envelope, as an objective: the local steps of pFedMe."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.objectives import Objective, gradient

InnerStart = Literal["last", "model"]


class Inner(NamedTuple):
    """How the nearby model is found; pFedMe's options."""

    steps: int
    lr: Scalar
    decay: Scalar
    start: InnerStart


def moreau_objective(loss: Objective, lamb: Scalar, inner: Inner) -> Objective:
    """A model ``w`` is pulled towards theta, which minimises the loss near it.

        theta = theta - lr * (grad f(theta; B) + lamb * (theta - w) + decay * theta)
        gradient: lamb * (w - theta)

    The statistics of what is trained are theta, with its own: no optimiser steps it, and it goes
    from one local step to the next.
    """

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        centre, last = jax.lax.stop_gradient(model.params), model.stats
        begin = last if inner.start == "last" else Variables(centre, last.stats)

        def step(i: Array, carry: tuple[Variables, Array]) -> tuple[Variables, Array]:
            own, _ = carry
            value, stats, slope = gradient(loss, own, batch, jax.random.fold_in(key, i))
            slope = tree.add_scaled(slope, lamb, tree.sub(own.params, centre))
            slope = tree.add_scaled(slope, inner.decay, own.params)
            return Variables(tree.add_scaled(own.params, -inner.lr, slope), stats), value

        zero = jnp.zeros((), jax.eval_shape(loss, begin, batch, key)[0].dtype)
        own, value = jax.lax.fori_loop(0, inner.steps, step, (begin, zero))
        # The gradient of a linear term is the step, whatever the local optimiser is.
        pull = tree.dot(tree.sub(centre, own.params), tree.sub(model.params, centre))
        return value + lamb * pull, own

    return objective
