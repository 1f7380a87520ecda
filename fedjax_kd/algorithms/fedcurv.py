"""FedCurv: FedAvg whose clients spare the parameters that matter to the others."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.fisher import Curvature, Curved, FisherLabels, fisher_diagonal
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, mean, total
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.losses.objectives import plus
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedcurv(
    task: Task,
    fit: Fit,
    *,
    lamb: Scalar = 0.1,
    labels: FisherLabels = "data",
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedCurv: elastic weights hold clients near each other's models (Shoham et al., 2019).

    Against FedAvg: the local loss; clients send the diagonal F_k of their Fisher information.
    Down: the model, u, v and a round's number. Up: its change, u_k and v_k. Keeps: u_k, v_k, and
    the number of the round in which they were sent.

        u_k = F_k,  v_k = F_k w_k                  at w_k, where local training ended
        u = sum_k u_k,  v = sum_k v_k              over the clients of the last round
        loss_k(w) + lamb * ((u - u_k) w^2 - 2 (v - v_k) w)

    which is ``lamb * sum_j F_j (w - w_j)^2`` over the other clients j, up to a constant. Who was
    not in the last round subtracts nothing. In the first round u and v are 0.

    Equals FedAvg when ``lamb == 0``.

    Args:
      task: the model and its loss, which is taken for a negative log-likelihood.
      fit: local training, from `fedjax_kd.local.local_training`.
      lamb: strength of the penalty, >= 0. Unstable if ``client_lr * lamb * u`` reaches 1.
      labels: whether F is of the "data"'s labels, or of those that the "model" expects.
      weighting: how clients vote on the model; u_k and v_k are summed.

    Raises:
      ValueError: if ``labels`` is unknown.

    Departs from the paper: there all clients are in every round. There is no code of the authors;
    OpenFL's squares the gradient of the last batch.
    Source: Shoham, Avidor, Keren, Israel, Benditkis, Mor-Yosef, Zeitak, 2019, arXiv:1910.07796.
    """
    check_choice("labels", labels, FisherLabels)
    base, fisher = fedavg(task, fit, weighting=weighting, **options), fisher_diagonal(task, labels)
    change = local_change(fit, weighting)

    def client_update(
        key: Key, received: Curved, own: Curved, data: Data, round: Round
    ) -> tuple[Upload, Curved]:
        counted = (own.sent == received.sent).astype(jnp.float32)
        others = tree.sub(received.curvature, tree.scale(counted, own.curvature))

        loss = plus(task.loss, others.springs(lamb))
        upload, fitted = change(key, received.base, data, loss, round)
        mine = Curvature.at(fisher(fitted.model, data), fitted.model.params)
        return upload._replace(message=(upload.message, mine)), Curved((), mine, round.number)

    def server_update(key: Key, server: Curved, update: tuple, round: Round) -> Curved:
        moved = base.server_update(key, server.base, update[0], round)
        return Curved(moved, update[1], round.number)

    def server_init(key: Key) -> Curved:
        server = base.server_init(key)
        return Curved(server, Curvature.zero(server.model.params), jnp.int32(-1))

    def client_init(key: Key, server: Curved) -> Curved:
        return Curved((), Curvature.zero(server.base.model.params), jnp.int32(-1))

    return base._replace(
        server_init=server_init,
        client_init=client_init,
        broadcast=lambda server, number, round: server._replace(base=server.base.model),
        client_update=client_update,
        aggregate=(mean, total),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, (), x),
        needs_classes="FedCurv expects labels of the model" if labels == "model" else "",
    )
