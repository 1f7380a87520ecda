"""MoFedSAM: FedSAM whose local steps lean towards the last global one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.sharp_edges import wants_sgd, warns_of
from fedjax_kd.components.sharpness import sharp_ascent, steered, uphill
from fedjax_kd.core import Algorithm, Client, Data, Key, PyTree, Round, Scalar, Upload, mean
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class Heading(NamedTuple):
    """A server or a model, and the direction of the last round, a tree like the parameters."""

    base: Any
    direction: PyTree


class Travelled(NamedTuple):
    """The change of a model, and the sum of the learning rates that it took."""

    change: Any  # a model, or how it is reduced
    travel: Any


@extends(fedavg, fixes=["objective"])
@warns_of(wants_sgd("MoFedSAM"))
def mofedsam(
    task: Task,
    fit: Fit,
    *,
    rho: Scalar = 0.1,
    beta: Scalar = 0.1,
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """MoFedSAM: FedSAM with the server's momentum in each local step (Qu et al., 2022).

    Against FedAvg: the local gradient, which costs two, and a direction that the server keeps.
    Down: the model and the direction D. Up: the model's change, and a number. Keeps: nothing.

        q = w + rho * grad f(w) / ||grad f(w)||
        w = w - client_lr * (beta * grad f(q) + (1 - beta) * D)
        D = -mean(w_k - w_received) / mean(sum of the steps' learning rates)

    Equals FedAvg when ``rho == 0`` and ``beta == 1``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`. D is meant for plain SGD.
      rho: distance of the point q in the space of all parameters, >= 0.
      beta: share of the client's own gradient, in [0, 1]; D is 0 in the first round.
      weighting: how clients vote; uniformly in the paper.

    Departs from the paper: D divides by the mean of the clients' own steps, of which all take
    equally many there. With ``batch_size=0`` each 64 examples of a client have their own q.
    Source: Qu, Li, Duan, Liu, Tang, Lu, ICML 2022, arXiv:2206.02618.
    """
    base, change_by = (
        fedavg(task, fit, weighting=weighting, **options),
        local_change(fit, weighting),
    )
    sharp = uphill(task.loss, sharp_ascent(rho))

    def server_init(key: Key) -> Heading:
        server = base.server_init(key)
        return Heading(server, tree.zeros_like(server.model.params))

    def client_update(
        key: Key, received: Heading, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        loss = steered(sharp, beta, received.direction)
        upload, fitted = change_by(key, received.base, data, loss, round)
        return upload._replace(message=Travelled(upload.message, fitted.travel)), client

    def server_update(key: Key, server: Heading, update: Travelled, round: Round) -> Heading:
        moved: GlobalModel = base.server_update(key, server.base, update.change, round)
        travel = jnp.where(update.travel == 0, 1, update.travel)
        return Heading(moved, tree.scale(-1 / travel, update.change.params))

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: Heading(server.base.model, server.direction),
        client_update=client_update,
        aggregate=Travelled(mean, mean),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
    )
