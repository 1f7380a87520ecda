"""FedGKD: FedAvg whose clients learn from the mean of the server's last models."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.past_models import LastModels, WithPast
from fedjax_kd.core import Algorithm, Batch, Client, Data, Key, PyTree, Round, Scalar, Upload
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class WithTeacher(NamedTuple):
    """What a client receives; the teacher is () if it is the model."""

    model: Any
    teacher: Any


@extends(fedavg, fixes=["objective"], needs_classes="FedGKD distils classes")
def fedgkd(
    task: Task,
    fit: Fit,
    *,
    gamma: Scalar = 0.2,
    tau: Scalar = 1.0,
    history: int = 5,
    wait: int = 0,
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedGKD: the mean of past global models teaches the clients (Yao et al., 2021).

    Against FedAvg: the local loss, which costs one more forward pass.
    Down: the model, and the teacher if that is another. Up: its change. Keeps: nothing; the server
    keeps its last M models.

        teacher = mean of the server's last M models
        p, q = softmax of f(x; teacher) / tau, f(x; w) / tau
        loss_k(w) + gamma / 2 * tau^2 * mean_x KL(p || q)

    The teacher is constant, in evaluation mode, and sees the same augmented inputs.

    Equals FedAvg when ``gamma == 0``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      gamma: weight of the distillation, >= 0; the authors' experiments have 0.2.
      tau: its temperature, > 0.
      history: M, >= 1; while there are fewer, the mean of these. With 1 the received model teaches.
      wait: rounds at the start without distillation, >= 0; the authors' code has 1.
      weighting: whether clients vote by their examples or all alike.

    Departs from the paper: FedGKD-VOTE, in which each past model teaches as much as its loss on the
    server's labelled examples says, is left out; in the authors' code it has no gradient.
    Source: Yao, Pan, Dai, Wan, Ding, Yu, Jin, Xu, Sun, 2021, arXiv:2107.00051.
    """
    base, change = fedavg(task, fit, weighting=weighting, **options), local_change(fit, weighting)

    def server_init(key: Key) -> WithPast:
        server = base.server_init(key)
        return WithPast(server, LastModels.of(server.model, history))

    def broadcast(server: WithPast, number: Array, round: Round) -> WithTeacher:
        return WithTeacher(server.base.model, server.past.mean() if history > 1 else ())

    def client_update(
        key: Key, received: WithTeacher, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        teacher = received.teacher if history > 1 else received.model
        weight = jnp.where(round.number < wait, 0, 0.5 * gamma)

        def loss(model: PyTree, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            taught, _ = task.apply(teacher, task.augment(key, batch.x))
            logits, stats = task.apply(model, batch.x, key)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            distilled = losses.batch_mean(losses.kl_divergence(logits, taught, tau), batch)
            return supervised + weight * distilled, stats

        return change(key, received.model, data, loss, round)[0], client

    def server_update(key: Key, server: WithPast, update: PyTree, round: Round) -> WithPast:
        moved = base.server_update(key, server.base, update, round)
        return WithPast(moved, server.past.then(moved.model))

    return base._replace(
        server_init=server_init,
        broadcast=broadcast,
        client_update=client_update,
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
    )
