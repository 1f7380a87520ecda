"""The loss after a step of adaptation, as an objective: the meta steps of Per-FedAvg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.objectives import Objective, gradient

Hessian = Literal["FO", "HF", "exact"]


def maml_objective(
    loss: Objective,
    more: Callable[[Batch, Key], tuple[Batch, Batch]],
    alpha: Scalar,
    delta: Scalar,
    hessian: Hessian,
) -> Objective:
    """The loss after one step, as an objective; ``more`` draws the batches D and D''."""

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        keys = jax.random.split(key, 4)
        first, third = more(batch, keys[0])

        def slope(params: PyTree, on: Batch, number: int) -> PyTree:
            return gradient(loss, Variables(params, model.stats), on, keys[number])[2]

        held = jax.lax.stop_gradient(model.params)
        near = tree.add_scaled(held, -alpha, slope(held, first, 1))
        value, stats, step = gradient(loss, Variables(near, model.stats), batch, keys[2])
        if hessian == "HF":
            ahead = slope(tree.add_scaled(held, delta, step), third, 3)
            behind = slope(tree.add_scaled(held, -delta, step), third, 3)
            bend = tree.scale(0.5 / delta, tree.sub(ahead, behind))
            step = tree.add_scaled(step, -alpha, bend)
        elif hessian == "exact":
            bend = jax.jvp(lambda params: slope(params, third, 3), (held,), (step,))[1]
            step = tree.add_scaled(step, -alpha, bend)
        # The gradient of a linear term is the meta step, whatever the local optimiser is.
        step = jax.lax.stop_gradient(step)
        return jax.lax.stop_gradient(value) + tree.dot(step, tree.sub(model.params, held)), stats

    return objective
