"""Ditto: FedAvg, and beside it a model of each client's own, held near the received one."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import own_spring_is_stiff, warns_of
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import plus
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(own_spring_is_stiff)
def ditto(task: Task, fit: Fit, *, lamb: Scalar = 1.0, **options: Any) -> Algorithm:
    """Ditto: each client also trains a model of its own, near the global one (Li et al., 2021).

    Against FedAvg: a second local training, of a model that stays and is what the client uses.
    Down: the model. Up: its change. Keeps: the client's own model v_k, params and stats.

        w_k = fit(w, client k), which is sent
        v_k = fit of f_k(v) + lamb / 2 * ||v - w||^2 from v_k on, in the same batches

    Equals FedAvg in its global model, whatever ``lamb``. With ``lamb == 0`` clients' own models are
    those of standalone training; the larger it is, the nearer they stay to the global one.

    A client that was never in a cohort has the initial model.

    Args:
      task: the model and its loss.
      fit: local training of either model, from `fedjax_kd.local.local_training`.
      lamb: strength of the proximal term around the received model, >= 0; the paper uses 0.1, 1
        and 2. Unstable if the client learning rate times ``lamb`` reaches 2.

    Departs from the paper: one ``lamb`` for all clients, who may there choose between several by a
    validation set. Both models take as many steps; statistics of normalisation are not held.
    Source: Li, Hu, Beirami, Smith, ICML 2021, arXiv:2012.04221.
    """
    base = fedavg(task, fit, **options)

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        def spring(model: Variables) -> Array:
            return 0.5 * lamb * tree.sq_norm(tree.sub(model.params, received.params))

        upload, _ = base.client_update(key, received, (), data, round)
        return upload, fit(key, own, data, plus(task.loss, spring), round).model

    return base._replace(
        client_init=lambda key, server: server.model,
        client_update=client_update,
        predict=lambda server, own, x: task.apply(own, x)[0],
        judged_by="clients",
    )
