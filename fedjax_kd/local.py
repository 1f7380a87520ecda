"""Local training: what one client does with its own examples."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.batching import LastBatch, check_last_batch, draw, in_time, steps_per_epochs, turns
from fedjax_kd.core import Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.errors import InputError, InputTypeError, warn
from fedjax_kd.losses.objectives import MICROBATCH, Objective, at_step, gradient, whole_gradient
from fedjax_kd.options import check_choice, checks_options

Optimiser = Callable[[Scalar], optax.GradientTransformation]
"""A learning rate to an optax optimiser, as ``optax.sgd`` or ``optax.adam``."""

Rate = Scalar | Callable[[Array], Array]
"""A learning rate, or a schedule of it: round number, from 0 on -> learning rate."""

Weighting = Literal["examples", "uniform"]


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
    # (examples of clients, their numbers, round number) -> gradients that each of them computes
    steps: Callable[[Any, Any, Any], Any]
    batch_size: int = 0  # examples in a step; 0 if all of a client's, or unknown
    options: Mapping[str, Any] | None = None  # of `local_training`; None if it was not made by that

    def __call__(
        self, key: Key, model: Variables, data: Data, objective: Objective, round: Round
    ) -> Fitted:
        """Trains ``model`` on ``data``; the key is consumed."""
        return self.run(key, model, data, objective, round)

    @property
    def given(self) -> frozenset[str]:
        """The options that differ from their defaults; traced ones do."""
        usual = inspect.signature(local_training).parameters
        mine = self.options or {}
        return frozenset(k for k, value in mine.items() if _differs(value, usual[k].default))

    def but(self, **options: Any) -> Fit:
        """The same local training with other options of `local_training`.

        Raises:
          ValueError: if it was not made by `local_training`, or an option is out of its range.

        Example:
          >>> local_training(batch_size=8, epochs=2).but(batch_size=4).options["epochs"]
          2
        """
        if self.options is None:
            raise InputError(
                f"This local training was not made by `local_training`, so {', '.join(options)} "
                "cannot be changed: make it with these options."
            )
        return local_training(**{**self.options, **options})


def _differs(value: Any, default: Any) -> bool:
    plain = isinstance(value, int | float | str) and type(value) is type(default)
    return value != default if plain else value is not default


def rate_at(rate: Rate, number: Array | int) -> Scalar:
    """The learning rate of a round.

    Example:
      >>> rate_at(0.5, 3), rate_at(lambda number: 0.5**number, 3).item()
      (0.5, 0.125)
    """
    return rate(jnp.asarray(number)) if callable(rate) else rate


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


def local_change(
    fit: Fit, weighting: Weighting = "examples"
) -> Callable[[Key, Variables, Data, Objective, Round], tuple[Upload, Fitted]]:
    """Local training as most clients do it: they train what they received and send its change.

    For methods whose objective needs more than the received model: what the client keeps, its data,
    or the round.

    Args:
      fit: local training, from `local_training`.
      weighting: whether a client votes by its number of examples or all clients vote alike.

    Returns:
      ``(key, received, data, objective, round) -> (upload, fitted client)``.

    Raises:
      ValueError: if ``weighting`` is unknown.
    """
    vote = voting(weighting)

    def change(
        key: Key, received: Variables, data: Data, objective: Objective, round: Round
    ) -> tuple[Upload, Fitted]:
        fitted = fit(key, received, data, objective, round)
        return Upload(tree.sub(fitted.model, received), vote(data), fitted.metrics), fitted

    return change


def optimiser_named(name: str) -> Optimiser:
    """The optax optimiser of that name.

    Raises:
      ValueError: if optax has none.
    """
    found = getattr(optax, name, None)
    if name.startswith("_") or not callable(found):
        known = [n for n in dir(optax) if n.islower() and callable(getattr(optax, n))]
        near = difflib.get_close_matches(name, known, 3) or ["sgd", "adam", "adamw"]
        raise InputError(
            f"optax has no optimiser {name!r}; near it: {', '.join(near)}. "
            "Give the name of an optax optimiser whose first argument is the learning rate."
        )
    return found


def made_optimiser(name: str, build: Any, rate: Scalar) -> optax.GradientTransformation:
    """What an `Optimiser` makes of a learning rate.

    Raises:
      TypeError: naming the argument, if ``build`` is no function of the learning rate.
    """
    advice = f"{name} must be a function of the learning rate: give optax.sgd, not optax.sgd(0.1)"
    if not callable(build):
        is_made = isinstance(build, optax.GradientTransformation)
        given = "an optimiser that has its learning rate already" if is_made else f"{build!r}"
        raise InputTypeError(f"{name} is {given}, but {advice}.")
    try:
        made = build(rate)
    except TypeError as error:
        raise InputTypeError(
            f"{name} cannot be called with a learning rate alone ({error}): {advice}, and set "
            "other arguments by functools.partial."
        ) from error
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise InputTypeError(f"{name} makes a {type(made).__name__} of a rate, but {advice}.")
    return made


@checks_options
def local_training(
    *,
    client_lr: Rate = 0.1,
    batch_size: int = 20,
    epochs: int = 1,
    steps: int | Callable[[Any, Any], Any] | None = None,
    client_opt: str | Optimiser = "sgd",
    client_momentum: Scalar | None = None,
    weight_decay: Scalar | None = None,
    clip_norm: Scalar | None = None,
    lr_decay: Scalar = 1.0,
    lr_end: Scalar | None = None,
    last_batch: LastBatch = "partial",
) -> Fit:
    """Minibatch training of one client, as every FedAvg-like method uses it.

    Clipping comes first, then weight decay (added to the gradient, as in PyTorch's SGD), then
    momentum, then the optimiser. Its state starts anew in every round.

    Args:
      client_lr: learning rate, > 0; in Python also a schedule ``round number -> learning rate``.
      batch_size: examples in a minibatch, >= 0; 0 means all examples of the client in one step.
      epochs: passes over the client's own examples, >= 1.
      steps: if given, exactly so many local steps for everyone, >= 1, instead of ``epochs``; in
        Python also a function of client and round number, of NumPy's and JAX's integers alike.
      client_opt: name of an optax optimiser (sgd, adam, adamw, ...); in Python also a function of
        the learning rate.
      client_momentum: heavy-ball momentum in [0, 1); none if not given.
      weight_decay: strength of L2 regularisation, >= 0; none if not given.
      clip_norm: largest allowed norm of a minibatch gradient, > 0; no clipping if not given.
      lr_decay: factor on the learning rate after each round, in (0, 1].
      lr_end: share of the learning rate, in [0, 1], towards which it falls linearly in each round,
        which step ``S`` of S would have; it stays as it is if not given.
      last_batch: what becomes of an incomplete last batch: "partial" keeps it smaller, "drop"
        leaves it out, "wrap" fills it from the next epoch.

    Returns:
      A `Fit`, to be called as ``fit(key, model, data, objective, round) -> Fitted``.

    Raises:
      ValueError: if an argument is out of its range, or the optimiser is unknown.
      TypeError: if ``client_opt`` is no function of the learning rate.
    """
    options = dict(locals())
    check_last_batch(last_batch)
    if steps is not None and epochs != 1:
        warn(f"Both steps and epochs={epochs} are given, of which steps decide: leave out one.")
    base = optimiser_named(client_opt) if isinstance(client_opt, str) else client_opt
    made_optimiser("client_opt", base, 0.1)  # a mistake is told here, and not inside a round

    def learning_rate(round: Round) -> Array:
        lr = rate_at(client_lr, round.number)
        return jnp.asarray(lr * jnp.asarray(lr_decay) ** round.number.astype(float))

    def optimiser(lr: Array) -> optax.GradientTransformation:
        return optax.chain(
            *([] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]),
            *([] if weight_decay is None else [optax.add_decayed_weights(weight_decay)]),
            *([] if client_momentum is None else [optax.trace(client_momentum)]),
            base(lr),
        )

    def length(size: Any, client: Any, round: Any) -> Any:
        if callable(steps):
            return (size > 0).astype(size.dtype) * steps(client, round)
        if steps is not None or not batch_size:
            return (size > 0).astype(size.dtype) * (epochs if steps is None else steps)
        return steps_per_epochs(size, batch_size, epochs, last_batch)

    def gradients(sizes: Any, clients: Any, round: Any) -> Any:
        count = length(sizes, clients, round)
        return count if batch_size else count * -(-sizes // MICROBATCH)

    def fit(key: Key, model: Variables, data: Data, objective: Objective, round: Round) -> Fitted:
        lr = learning_rate(round)
        key_order, key_steps = jax.random.split(key)
        seed = jax.random.bits(key_order, dtype=jnp.uint32)
        known = data._replace(sizes=None) if callable(steps) else data  # which asks for the round
        number = in_time(turns(lambda size: length(size, data.client, round.number), known), data)
        count = jnp.asarray(number, jnp.int32)

        def step(i: Array, carry: tuple) -> tuple:
            model, opt_state, losses = carry
            opt = optimiser(lr if lr_end is None else lr * _falling(i, count, lr_end, lr))
            key_step = jax.random.fold_in(key_steps, i)
            if batch_size:
                batch = data.take(*draw(seed, i, data.size, batch_size, last_batch))
                loss, stats, grads = gradient(at_step(objective, i), model, batch, key_step)
            else:
                loss, stats, grads = whole_gradient(at_step(objective, i), model, data, key_step)
            params, opt_state = stepped(opt, model.params, grads, opt_state)
            return Variables(params, stats), opt_state, losses + loss.astype(jnp.float32)

        start = (model, optimiser(lr).init(model.params), jnp.zeros((), jnp.float32))
        model, _, losses = jax.lax.fori_loop(0, number, step, start)
        loss = losses / jnp.maximum(count, 1).astype(losses.dtype)
        # Falling from 1 to `lr_end`, S rates add up to (S (1 + lr_end) + 1 - lr_end) / 2.
        rates = count.astype(lr.dtype)
        if lr_end is not None:
            rates = (rates * (1 + lr_end) + (1 - lr_end)) / 2 * (count > 0).astype(lr.dtype)
        return Fitted(model, loss, count, rates * lr)

    return Fit(fit, gradients, batch_size, options)


def _falling(step: Any, count: Array, end: Scalar, like: Array) -> Array:
    """The share of the learning rate that holds in a step, from 1 on towards ``end``."""
    gone = jnp.asarray(step, like.dtype) / jnp.maximum(count, 1).astype(like.dtype)
    return 1 - gone * (1 - end)


def stepped(
    opt: optax.GradientTransformation, params: PyTree, grads: PyTree, state: optax.OptState
) -> tuple[PyTree, optax.OptState]:
    """Parameters and the optimiser's state after a step."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        updates, state = opt.update(grads, state, params)
    return optax.apply_updates(params, updates), state
