"""The upper part of a network that is cut in two: the server trains it on what clients send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from fedjax_kd.components.model_checks import check_batches
from fedjax_kd.components.split_client import AnsweringObjective, Exchange
from fedjax_kd.core import Batch, Key, Round, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.local import Optimiser, Rate, made_optimiser, rate_at, stepped
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.models.mlp import mlp
from fedjax_kd.options import checks_options
from fedjax_kd.task import Task, from_nnx


class Answers(NamedTuple):
    """The server's logits of clients' examples, and whether there are any; of all, or of one."""

    logits: Float[Array, "*C N L"]
    known: Bool[Array, "*C"]


class UpperPart(NamedTuple):
    """The server's part of the network, and its optimiser's state."""

    model: Variables
    opt: Any


class Upper(NamedTuple):
    """The server: its part, its logits for each client, and the key of the clients' first part."""

    part: UpperPart
    answers: Answers
    start: UInt32[Array, " 2"]


class UpperHalf(NamedTuple):
    """The server of a network that is cut in two, from `upper_half`."""

    task: Task
    init: Callable[[Key], Upper]
    apply: Callable[[Upper, Array], Array]  # features to logits
    train: Callable[[Key, Upper, Exchange, Round, AnsweringObjective], Upper]


@checks_options
def upper_half(
    task: Task,
    *,
    population: int,
    capacity: int,
    classes: int,
    server: Task | None = None,
    server_hidden: tuple[int, ...] = (200, 200),
    server_lr: Rate = 3e-3,
    server_epochs: int | Callable[[Array], Array] = 2,
    server_batch: int = 100,
    server_opt: Optimiser = optax.adam,
    late: bool = True,
) -> UpperHalf:
    """A server that trains on a cohort's uploads: client by client, in batches of one client.

    Clients come in the order of their numbers. Only batches with examples take a step, whatever
    the capacity of the messages is.

    Args:
      task: of the clients.
      population: clients of the federation, >= 1.
      capacity: examples of the largest client, >= 1; those beyond it take no part.
      classes: logits an example, >= 1.
      server: the server's network, on features; by default dense layers.
      server_hidden: units of each hidden layer of these, each >= 1.
      server_lr: learning rate of the server's optimiser, > 0; the paper uses 0.003.
      server_epochs: passes over the cohort's examples, >= 1; in Python also a schedule, round
        number -> epochs, as the code's, which falls from 20 to 2.
      server_batch: examples in a step of the server, >= 1; the paper uses 256, the code's example
        100.
      server_opt: a learning rate to an optax optimiser, whose state is kept over rounds.
      late: whether the logits of a batch are those after its step in the last epoch, in evaluation
        mode; else those before, in training mode, which cost nothing.

    Raises:
      ValueError: if a number is out of its range, or the shape of features is not known.
      TypeError: if the module has no ``features``.
    """
    top = dense_layers(task, server_hidden, classes) if server is None else server
    check_batches(top, "server_batch", min(server_batch, capacity))
    made_optimiser("server_opt", server_opt, 1.0)

    def init(key: Key) -> Upper:
        model = top.init(jax.random.fold_in(key, 1))
        nothing = jnp.zeros((population, capacity, classes)), jnp.zeros(population, bool)
        return Upper(
            UpperPart(model, server_opt(rate_at(server_lr, 0)).init(model.params)),
            Answers(*nothing),
            jax.random.key_data(key),
        )

    def train(
        key: Key, upper: Upper, sent: Exchange, round: Round, loss: AnsweringObjective
    ) -> Upper:
        length, opt = min(server_batch, capacity), server_opt(rate_at(server_lr, round.number))
        find, each = _plan(sent.size, jnp.argsort(round.cohort), length)
        epochs = server_epochs(round.number) if callable(server_epochs) else server_epochs

        def step(i: Array, carry: tuple) -> tuple[UpperPart, Array]:
            (model, opt_state), answers = carry
            client, positions = find(i % each)
            size = sent.size[client]
            # Filling repeats the client's examples: it enters the statistics of a batch.
            row = positions % jnp.maximum(size, 1)
            x, teacher, labels = (a[client, row] for a in sent[:3])
            batch = Batch(x, (labels, teacher), (positions < size).astype(jnp.float32))
            _, (stats, logits), grads = gradient(loss, model, batch, jax.random.fold_in(key, i))
            params, opt_state = stepped(opt, model.params, grads, opt_state)
            model = Variables(params, stats)
            if late:
                before, last = logits, i >= each * (epochs - 1)
                logits = jax.lax.cond(last, lambda: top.apply(model, x)[0], lambda: before)
            where = jnp.where(positions < size, positions, capacity)
            return UpperPart(model, opt_state), answers.at[client, where].set(logits, mode="drop")

        start = upper.part, jnp.zeros_like(sent.logits)
        part, logits = jax.lax.fori_loop(0, each * epochs, step, start)
        return upper._replace(part=part, answers=_answered(upper.answers, round, logits))

    def apply(upper: Upper, features: Array) -> Array:
        return top.apply(upper.part.model, features)[0]

    return UpperHalf(top, init, apply, train)


def answer_to(upper: Upper, number: Int[Array, ""]) -> Answers:
    """What one client receives."""
    return jax.tree.map(lambda a: a.at[number].get(mode="clip"), upper.answers)


def dense_layers(task: Task, hidden: tuple[int, ...], classes: int) -> Task:
    """A fully connected network on the features of ``task``, with the same loss.

    Raises:
      ValueError: if the task does not know the shape of its examples, or a size is not positive.
      TypeError: if the module has no ``features``.
    """
    if task.input_types is None:
        raise InputError(
            "This task does not know the shape of its examples, and so not that of its features: "
            "give `from_nnx` an `example_x`, a batch of the data, or give the server a task."
        )
    model = jax.eval_shape(task.init, jax.random.key(0))
    features = jax.eval_shape(task.features, model, task.input_types)
    return from_nnx(mlp(features.shape[1:], classes, hidden=hidden), example_loss=task.example_loss)


def _plan(
    sizes: Int[Array, " K"], order: Int[Array, " K"], length: int
) -> tuple[Callable[[Array], tuple[Array, Array]], Array]:
    """Where a batch is, ``turn -> client, positions``, and how many batches there are."""
    batches = -(-sizes[order] // length)
    ends = jnp.cumsum(batches)

    def find(turn: Array) -> tuple[Array, Array]:
        place = jnp.searchsorted(ends, turn, side="right")
        first = (turn - ends[place] + batches[place]) * length
        return order[place], first + jnp.arange(length, dtype=jnp.int32)

    return find, ends[-1]


def _answered(answers: Answers, round: Round, logits: Float[Array, "K N L"]) -> Answers:
    """The answers, new for those of the cohort who are present."""
    who = jnp.where(round.present > 0, round.cohort, len(answers.known))
    kept = answers.logits.at[who].set(logits.astype(answers.logits.dtype), mode="drop")
    return Answers(kept, answers.known.at[who].set(True, mode="drop"))
