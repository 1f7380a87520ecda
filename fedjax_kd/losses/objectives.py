"""Objectives: what a client minimises, and their gradients on a batch or on all of its examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Batch, Data, Key, PyTree, Variables
from fedjax_kd.errors import InputTypeError

Objective = Callable[..., tuple[Array, PyTree]]
"""(model, batch, key) -> (loss, new stats): what a client minimises. It may close over anything.

One with an argument named ``step`` is given the number of the local step, from 0."""

ReceivedObjective = Callable[[Variables], Objective]
"""received model -> local objective"""

MICROBATCH = 64  # whole-batch gradients are summed over pieces of this size


def plus(loss: Objective, penalty: Callable[[Variables], Array]) -> Objective:
    """The objective ``loss + penalty(model)``."""

    @wraps(loss)
    def objective(model: Variables, *args: Any, **step: Any) -> tuple[Array, PyTree]:
        value, stats = loss(model, *args, **step)
        return value + penalty(model), stats

    return objective


def at_step(objective: Objective, step: Any) -> Objective:
    """The objective in one local step; the same one if it does not ask for the number.

    Example:
      >>> at_step(lambda model, batch, key, step: (2.0 * step, ()), 3)(None, None, None)
      (6.0, ())
    """
    if "step" not in inspect.signature(objective).parameters:
        return objective
    return partial(objective, step=step)


def gradient(
    objective: Objective, model: Variables, batch: Batch, key: Key
) -> tuple[Array, PyTree, PyTree]:
    """``(loss, new stats, gradient of the loss by params)`` on one batch.

    Raises:
      TypeError: if a parameter is no float; the message names it.
    """
    _check_floats(model.params)

    def loss_of(params: PyTree) -> tuple[Array, PyTree]:
        return objective(Variables(params, model.stats), batch, key)

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(model.params)
    return loss, stats, grads


def _check_floats(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise InputTypeError(
                f"The parameter at {jax.tree_util.keystr(path) or 'the root'} is {dtype}, but only "
                "floats have gradients: make it a statistic, as `nnx.Variable` in place of "
                "`nnx.Param`, or in another Linen collection than 'params'."
            )


def sum_of(
    term: Callable[[PyTree, PyTree], Array], params: PyTree, each: PyTree
) -> Float[Array, ""]:
    """The sum of ``term(params, one)`` over the first axis of ``each``, for use within a loss.

    Each term's gradient by ``params`` is taken at once, so that what one term remembers for it is
    gone before the next one starts. Gradients by anything else are zero, and so are second ones.

    Example:
      >>> jax.value_and_grad(lambda w: sum_of(jnp.multiply, w, jnp.array([1.0, 2.0])))(3.0)
      (Array(9., dtype=float32), Array(3., dtype=float32, weak_type=True))
    """
    start = jax.lax.stop_gradient(params)

    def add(carry: tuple[Array, PyTree], one: PyTree) -> tuple[tuple[Array, PyTree], None]:
        found = jax.value_and_grad(term)(start, one)
        return tree.add(carry, jax.lax.stop_gradient(found)), None

    first = jax.eval_shape(term, start, jax.tree.map(lambda a: a[0], each))
    zero = jnp.zeros((), first.dtype), tree.zeros_like(start)
    (value, slope), _ = jax.lax.scan(add, zero, jax.lax.stop_gradient(each))
    moved = tree.dot(slope, params)
    return value + (moved - jax.lax.stop_gradient(moved)).astype(value.dtype)


def whole_gradient(
    objective: Objective, model: Variables, data: Data, key: Key
) -> tuple[Array, PyTree, PyTree]:
    """Like `gradient`, on all examples of a client at once, in memory of one small batch."""

    def add(carry: tuple, batch: Batch, i: Array) -> tuple:
        loss_sum, stats, grad_sum = carry
        current = Variables(model.params, stats)
        loss, stats, grads = gradient(objective, current, batch, jax.random.fold_in(key, i))
        share = batch.mask.sum() / jnp.maximum(data.size, 1).astype(batch.mask.dtype)
        return (
            loss_sum + share.astype(loss.dtype) * loss,
            stats,
            tree.add_scaled(grad_sum, share, grads),
        )

    example = jax.eval_shape(lambda: gradient(objective, model, data.take(*_first()), key))
    start = (jnp.zeros((), example[0].dtype), model.stats, tree.zeros_like(model.params))
    return over_rows(data, MICROBATCH, add, start)


def _first() -> tuple[Array, Array]:
    """Positions and mask of some batch, for shapes only."""
    return jnp.zeros(MICROBATCH, jnp.int32), jnp.ones(MICROBATCH, jnp.float32)
