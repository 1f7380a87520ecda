"""Local training: what one client does with its own examples."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.batching import LastBatch, check_last_batch, draw, over_rows, steps_per_epochs
from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.options import check_choice

Objective = Callable[[Variables, Batch, Key], tuple[Array, PyTree]]
"""(model, batch, key) -> (loss, new stats): what a client minimises. It may close over anything."""

ReceivedObjective = Callable[[Variables], Objective]
"""received model -> local objective"""

Optimiser = Callable[[Scalar], optax.GradientTransformation]
"""A learning rate to an optax optimiser, as ``optax.sgd`` or ``optax.adam``."""

Weighting = Literal["examples", "uniform"]

_MICROBATCH = 64  # whole-batch gradients are summed over pieces of this size


class Fitted(NamedTuple):
    """One client after local training."""

    model: Variables
    loss: Float[Array, ""]  # mean over the local steps
    steps: Int[Array, ""]  # local steps taken
    travel: Float[Array, ""]  # the sum of their learning rates

    @property
    def metrics(self) -> dict[str, Array]:
        """What every client reports."""
        return {"loss": self.loss, "steps": self.steps}


class Fit(NamedTuple):
    """Local training, ready to be called: ``fit(key, model, data, objective, round)``."""

    run: Callable[[Key, Variables, Data, Objective, Round], Fitted]
    steps: Callable[[Any], Any]  # examples of clients -> gradients that each of them computes
    batch_size: int = 0  # examples in a step; 0 if all of a client's, or unknown

    def __call__(
        self, key: Key, model: Variables, data: Data, objective: Objective, round: Round
    ) -> Fitted:
        """Trains ``model`` on ``data``; the key is consumed."""
        return self.run(key, model, data, objective, round)


def voting(weighting: Weighting) -> Callable[[Data], Array]:
    """How many votes a client has in a weighted mean.

    Raises:
      ValueError: if ``weighting`` is neither ``"examples"`` nor ``"uniform"``.
    """
    advice = "a client votes by its number of examples, or all vote alike."
    check_choice("weighting", weighting, Weighting, advice)
    return lambda data: (
        data.size.astype(jnp.float32) if weighting == "examples" else jnp.ones((), jnp.float32)
    )


def plus(loss: Objective, penalty: Callable[[Variables], Array]) -> Objective:
    """The objective ``loss + penalty(model)``."""

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        value, stats = loss(model, batch, key)
        return value + penalty(model), stats

    return objective


def optimiser_named(name: str) -> Optimiser:
    """The optax optimiser of that name.

    Raises:
      ValueError: if optax has none.
    """
    found = getattr(optax, name, None)
    if name.startswith("_") or not callable(found):
        known = [n for n in dir(optax) if n.islower() and callable(getattr(optax, n))]
        near = difflib.get_close_matches(name, known, 3) or ["sgd", "adam", "adamw"]
        raise ValueError(
            f"optax has no optimiser {name!r}; near it: {', '.join(near)}. "
            "Give the name of an optax optimiser whose first argument is the learning rate."
        )
    return found


def local_training(
    *,
    client_lr: Scalar | Callable[[Array], Array] = 0.1,
    batch_size: int = 20,
    epochs: int = 1,
    steps: int | None = None,
    client_opt: str | Optimiser = "sgd",
    client_momentum: Scalar | None = None,
    weight_decay: Scalar | None = None,
    clip_norm: Scalar | None = None,
    lr_decay: Scalar = 1.0,
    last_batch: LastBatch = "partial",
) -> Fit:
    """Minibatch training of one client, as every FedAvg-like method uses it.

    Clipping comes first, then weight decay (added to the gradient, as in PyTorch's SGD), then
    momentum, then the optimiser. Its state starts anew in every round.

    Args:
      client_lr: learning rate, > 0; in Python also a schedule ``round number -> learning rate``.
      batch_size: examples in a minibatch; 0 means all examples of the client in one step.
      epochs: passes over the client's own examples, >= 1.
      steps: if given, exactly so many local steps for everyone, instead of ``epochs``.
      client_opt: name of an optax optimiser (sgd, adam, adamw, ...); in Python also a function of
        the learning rate.
      client_momentum: heavy-ball momentum in [0, 1); none if not given.
      weight_decay: strength of L2 regularisation, >= 0; none if not given.
      clip_norm: largest allowed norm of a minibatch gradient, > 0; no clipping if not given.
      lr_decay: factor on the learning rate after each round, in (0, 1].
      last_batch: what becomes of an incomplete last batch: "partial" keeps it smaller, "drop"
        leaves it out, "wrap" fills it from the next epoch.

    Returns:
      A `Fit`, to be called as ``fit(key, model, data, objective, round) -> Fitted``.

    Raises:
      ValueError: if an argument is out of its range, or the optimiser is unknown.
    """
    _check(batch_size, epochs, steps, last_batch)
    base = optimiser_named(client_opt) if isinstance(client_opt, str) else client_opt

    def learning_rate(round: Round) -> Array:
        lr = client_lr(round.number) if callable(client_lr) else client_lr
        return jnp.asarray(lr * jnp.asarray(lr_decay) ** round.number.astype(float))

    def optimiser(lr: Array) -> optax.GradientTransformation:
        return optax.chain(
            *([] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]),
            *([] if weight_decay is None else [optax.add_decayed_weights(weight_decay)]),
            *([] if client_momentum is None else [optax.trace(client_momentum)]),
            base(lr),
        )

    def length(size: Any) -> Any:
        if steps is not None or not batch_size:
            return (size > 0).astype(size.dtype) * (epochs if steps is None else steps)
        return steps_per_epochs(size, batch_size, epochs, last_batch)

    def gradients(sizes: Any) -> Any:
        return length(sizes) if batch_size else length(sizes) * -(-sizes // _MICROBATCH)

    def fit(key: Key, model: Variables, data: Data, objective: Objective, round: Round) -> Fitted:
        lr = learning_rate(round)
        opt = optimiser(lr)
        key_order, key_steps = jax.random.split(key)
        seed = jax.random.bits(key_order, dtype=jnp.uint32)
        count = length(data.size)

        def step(i: Array, carry: tuple) -> tuple:
            model, opt_state, losses = carry
            key_step = jax.random.fold_in(key_steps, i)
            if batch_size:
                batch = data.take(*draw(seed, i, data.size, batch_size, last_batch))
                loss, stats, grads = gradient(objective, model, batch, key_step)
            else:
                loss, stats, grads = whole_gradient(objective, model, data, key_step)
            params, opt_state = stepped(opt, model.params, grads, opt_state)
            return Variables(params, stats), opt_state, losses + loss.astype(jnp.float32)

        start = (model, opt.init(model.params), jnp.zeros((), jnp.float32))
        model, _, losses = jax.lax.fori_loop(0, count, step, start)
        loss = losses / jnp.maximum(count, 1).astype(losses.dtype)
        return Fitted(model, loss, count, count.astype(lr.dtype) * lr)

    return Fit(fit, gradients, batch_size)


def stepped(
    opt: optax.GradientTransformation, params: PyTree, grads: PyTree, state: optax.OptState
) -> tuple[PyTree, optax.OptState]:
    """Parameters and the optimiser's state after a step."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        updates, state = opt.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def gradient(
    objective: Objective, model: Variables, batch: Batch, key: Key
) -> tuple[Array, PyTree, PyTree]:
    """``(loss, new stats, gradient of the loss by params)`` on one batch."""

    def loss_of(params: PyTree) -> tuple[Array, PyTree]:
        return objective(Variables(params, model.stats), batch, key)

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(model.params)
    return loss, stats, grads


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
    return over_rows(data, _MICROBATCH, add, start)


def _first() -> tuple[Array, Array]:
    """Positions and mask of some batch, for shapes only."""
    return jnp.zeros(_MICROBATCH, jnp.int32), jnp.ones(_MICROBATCH, jnp.float32)


def _check(batch_size: int, epochs: int, steps: int | None, last_batch: str) -> None:
    if batch_size < 0:
        raise ValueError(
            f"batch_size is {batch_size}, but must be >= 1, or 0 for all examples of a client."
        )
    for name, value in {"epochs": epochs, "steps": 1 if steps is None else steps}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but a client must train for at least 1.")
    check_last_batch(last_batch)
