"""Local training of a part of the model, while the rest stays as it is, and of parts in turns."""

from __future__ import annotations

from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.core import Data, Key, PyTree, Round, Variables
from fedjax_kd.local import Fit, Fitted
from fedjax_kd.losses.objectives import Objective


def of_part(fit: Fit, part: Part) -> Fit:
    """Local training that moves the values of a part alone, parameters and statistics.

    The optimiser does not see the others: neither momentum nor weight decay moves them, and their
    gradients count in no norm.

    Args:
      fit: local training of a whole model.
      part: from `fedjax_kd.components.model_parts`.
    """

    def run(key: Key, model: Variables, data: Data, objective: Objective, round: Round) -> Fitted:
        rest, own = partition(part, model)

        @wraps(objective)
        def of_own(own: Variables, *args: Any, **step: Any) -> tuple[Array, PyTree]:
            loss, stats = objective(combine(rest, own), *args, **step)
            return loss, partition(part.stats, stats)[1]

        fitted = fit(key, own, data, of_own, round)
        return fitted._replace(model=combine(rest, fitted.model))

    return fit._replace(run=run, options=None)


def in_turns(first: Fit, then: Fit) -> Fit:
    """One local training after the other, each with an optimiser of its own."""

    def run(key: Key, model: Variables, data: Data, objective: Objective, round: Round) -> Fitted:
        before = first(jax.random.fold_in(key, 0), model, data, objective, round)
        after = then(jax.random.fold_in(key, 1), before.model, data, objective, round)
        steps = before.steps + after.steps
        share = after.steps.astype(after.loss.dtype) / jnp.maximum(steps, 1).astype(
            after.loss.dtype
        )
        loss = (1 - share) * before.loss + share * after.loss
        return Fitted(after.model, loss, steps, before.travel + after.travel)

    def gradients(sizes: Any, clients: Any, round: Any) -> Any:
        return first.steps(sizes, clients, round) + then.steps(sizes, clients, round)

    return Fit(run, gradients, then.batch_size)
