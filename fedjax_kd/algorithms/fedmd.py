"""FedMD: every client has a model of its own; what clients share is logits of public inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from fedjax_kd.components.consensus import Consensus, public_lessons
from fedjax_kd.components.model_checks import check_batches, model_check
from fedjax_kd.core import Algorithm, Data, Key, Round, Upload, Variables, examples, mean
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class Own(NamedTuple):
    """A client's model, and whether it was ever in a cohort."""

    model: Variables
    trained: Bool[Array, ""]


@extends(public_lessons, fixes=["method"])
def fedmd(task: Task, fit: Fit, *, weighting: Weighting = "uniform", **options: Any) -> Algorithm:
    """FedMD: clients of any architecture learn from the mean of their logits (Li, Wang, 2019).

    Against FedAvg: models do not travel, and there is no global one; all start differently.
    Down: the last round's consensus [P, L], P = ``alignment``, a boolean, and two seeds that name
    public inputs. Up: logits of the next ones [P, L]. Keeps: its model, and a boolean.

        transfer: loss_k                                 over labelled public examples, once
        digest:   mean_x |f_k(x) - consensus(x)| / L     over the last round's public inputs
        revisit:  loss_k, by ``fit``                     over the client's own examples
        consensus(x) = mean_k f_k(x)                     over the next public inputs

    A client is evaluated with its own model, a newcomer with an untrained one.
    Equals local training when ``public_lr == 0``: FedAvg, if one client is alone.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: whether all clients vote alike on the consensus, or by their examples.

    Raises:
      ValueError: if a number is out of its range, a choice is unknown, or public inputs or their
        labels are missing.

    Departs from the paper: clients digest at the beginning of a round what the last one agreed on;
    if all are in every round, that is the same sequence of steps. The transfer has a fixed length,
    and public inputs are drawn regardless of their labels.
    Source: Li, Wang, 2019, arXiv:1910.03581.
    """
    check_batches(task, "batch_size", getattr(fit, "batch_size", 0))
    lessons, vote = public_lessons("FedMD", task, **options), voting(weighting)

    def client_update(
        key: Key, received: Consensus, own: Own, data: Data, round: Round
    ) -> tuple[Upload, Own]:
        key_transfer, key_digest = (jax.random.fold_in(key, n) for n in (1, 2))
        model = lessons.transfer(key_transfer, own.model, ~own.trained, round)
        model = lessons.digest(key_digest, model, received, round)
        fitted = fit(key, model, data, task.loss, round)
        message = {"logits": lessons.judge(fitted.model, received, round)}
        return Upload(message, vote(data), fitted.metrics), Own(fitted.model, jnp.bool_(True))

    def server_update(
        key: Key, server: Consensus, agreed: dict[str, Array], round: Round
    ) -> Consensus:
        seed = jax.random.bits(key, dtype=jnp.uint32)
        return Consensus(agreed["logits"], jnp.bool_(True), server.next_seed, seed)

    return Algorithm(
        server_init=lessons.nothing,
        client_init=lambda key, server: Own(task.init(key), jnp.bool_(False)),
        broadcast=lambda server, number, round: server,
        client_update=client_update,
        aggregate={"logits": mean},
        server_update=server_update,
        predict=lambda server, own, x: task.apply(own.model, x)[0],
        work=getattr(fit, "steps", examples),
        judged_by="clients",
        uploads="values",
        score=task.example_loss,
        check=model_check(task, fit),
    )


@extends(fedmd)
def fedmd_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fedmd` of several architectures, one algorithm each, that agree on the same logits.

    Args:
      tasks: classifiers of the same classes.
      fit: local training of them all.
    """
    return tuple(fedmd(task, fit, **options) for task in tasks)
