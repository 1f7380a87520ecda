"""Learning from public inputs: from the clients' consensus, and from labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, UInt32

from fedjax_kd import losses
from fedjax_kd.batching import in_pieces
from fedjax_kd.components.model_checks import check_batches
from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.data.public_inputs import MissingError, Stored, inputs_of
from fedjax_kd.local import Optimiser, local_training, made_optimiser
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.task import Task

Distance = Literal["l1", "kl"]


class Consensus(NamedTuple):
    """The mean logits of some public inputs, and the seed of the inputs to judge next."""

    logits: Float[Array, "P L"]
    known: Bool[Array, ""]  # false until there is a consensus
    seed: UInt32[Array, ""]  # of its inputs
    next_seed: UInt32[Array, ""]


class Lessons(NamedTuple):
    """A client's functions of public inputs, from `public_lessons`."""

    nothing: Callable[[Key], Consensus]  # before the first round
    transfer: Callable[[Key, Variables, Array, Round], Variables]  # the third is whether to do it
    digest: Callable[[Key, Variables, Consensus, Round], Variables]
    judge: Callable[[Variables, Consensus, Round], Float[Array, "P L"]]


@checks_options
def public_lessons(
    method: str,
    task: Task,
    *,
    classes: int,
    alignment: int = 5000,
    public_lr: Scalar = 1e-3,
    public_batch: int = 256,
    public_opt: Optimiser = optax.adam,
    digest_epochs: int = 1,
    transfer_epochs: int = 0,
    distance: Distance = "l1",
) -> Lessons:
    """Training on public inputs, and judging them.

    Args:
      method: who asks, for messages.
      task: a classifier and its loss.
      classes: logits of every model, >= 1.
      alignment: public inputs in a round, >= 1, drawn anew each time; the paper uses 5000. Where
        there are fewer, some come twice.
      public_lr: learning rate on public inputs, >= 0; the paper uses 0.001.
      public_batch: of them in a step, >= 1; the paper uses 256.
      public_opt: a learning rate to an optax optimiser for them, whose state starts anew.
      digest_epochs: passes over a consensus, >= 1; the paper uses 1.
      transfer_epochs: passes over all labelled public examples before a client's first round, >= 0;
        the paper's clients train until nothing is gained.
      distance: "l1" between logits, as in the paper, or "kl" from the consensus' predictions.

    Raises:
      ValueError: if a number is out of its range, or the distance is unknown.
    """
    check_choice("distance", distance, Distance)
    check_batches(task, "public_batch", min(public_batch, alignment))
    as_stored = task.unaugmented or task  # the consensus is about the inputs themselves
    apart = losses.logit_mae if distance == "l1" else losses.kl_divergence
    made_optimiser("public_opt", public_opt, 0.1)
    # A schedule, since a rate of 0, with which nothing is learnt, is none of local training.
    fit = partial(
        local_training,
        client_lr=lambda number: jnp.asarray(public_lr),
        batch_size=public_batch,
        client_opt=public_opt,
    )
    fit_labels, fit_logits = fit(epochs=max(transfer_epochs, 1)), fit(epochs=digest_epochs)

    def nothing(key: Key) -> Consensus:
        seed, next_seed = jax.random.bits(key, (2,), jnp.uint32)
        return Consensus(jnp.zeros((alignment, classes)), jnp.bool_(False), seed, next_seed)

    def transfer(key: Key, model: Variables, wanted: Array, round: Round) -> Variables:
        if not transfer_epochs:
            return model
        source = inputs_of(round, method)
        if not isinstance(source, Stored) or not jax.tree.leaves(source.y):
            raise MissingError(
                f"{method} with transfer_epochs={transfer_epochs} needs labels of the public "
                "inputs, but these have none: set training rows apart as public (--public "
                "holdout), or take transfer_epochs=0."
            )
        labelled = _all_of(source.x, source.y, wanted)
        return fit_labels(key, model, labelled, task.loss, round).model

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        logits, stats = as_stored.apply(model, batch.x, key)
        return losses.batch_mean(apart(logits, batch.y), batch), stats

    def inputs(seed: Array, round: Round) -> PyTree:
        return inputs_of(round, method).draw(jax.random.key(seed), alignment)

    def digest(key: Key, model: Variables, received: Consensus, round: Round) -> Variables:
        lesson = _all_of(inputs(received.seed, round), received.logits, received.known)
        return fit_logits(key, model, lesson, objective, round).model

    def judge(model: Variables, received: Consensus, round: Round) -> Float[Array, "P L"]:
        x = inputs(received.next_seed, round)
        return in_pieces(lambda x: task.apply(model, x)[0], x, public_batch)

    return Lessons(nothing, transfer, digest, judge)


def _all_of(x: PyTree, y: PyTree, wanted: Bool[Array, ""]) -> Data:
    """All rows of some arrays, or none."""
    data = Data.all_of(x, y)
    return data._replace(size=jnp.where(wanted, data.size, 0))
