"""FedAvg whose clients keep a dual variable, which holds them together: FedDyn's local steps."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.corrections import corrected, tethered
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task

DualMean = Literal["present", "all"]


class Drifted(NamedTuple):
    """The server, and the mean of all clients' dual variables; () if it need not know that."""

    base: GlobalModel
    dual: PyTree


@extends(fedavg, fixes=["objective", "weighting"])
def fedavg_with_duals(
    task: Task, fit: Fit, lamb: Scalar, duals: DualMean, **options: Any
) -> Algorithm:
    """FedAvg of clients that keep h_k, the sum of all their changes.

    Down: the model. Up: its change. Keeps: h_k, of the parameters' shapes.

        y = y - lr * (grad f_k(y) + lamb * (y - w + h_k))       local steps from y = w
        h_k = h_k + y - w
        w = w + server_lr * mean(y - w + h_k)                   "present"
        w = w + server_lr * (mean(y - w) + sum_k h_k / C)       "all", also those of absent clients

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      lamb: strength of the dual variables and of the proximal term, >= 0.
      duals: whose dual variables the server adds.
    """
    base, change_by = (
        fedavg(task, fit, weighting="uniform", **options),
        local_change(fit, "uniform"),
    )

    def server_init(key: Key) -> Drifted:
        server = base.server_init(key)
        return Drifted(server, tree.zeros_like(server.model.params) if duals == "all" else ())

    def client_update(
        key: Key, received: Variables, dual: PyTree, data: Data, round: Round
    ) -> tuple[Upload, PyTree]:
        loss = corrected(tethered(task.loss, lamb, received.params), tree.scale(lamb, dual))
        upload, _ = change_by(key, received, data, loss, round)
        change: Variables = upload.message
        new = tree.add(dual, change.params)
        if duals == "present":
            change = change._replace(params=tree.add(change.params, new))
        return upload._replace(message=change), new

    def server_update(key: Key, server: Drifted, delta: Variables, round: Round) -> Drifted:
        dual = server.dual
        if duals == "all":
            dual = tree.add_scaled(dual, round.present.sum() / round.population, delta.params)
            delta = delta._replace(params=tree.add(delta.params, dual))
        return Drifted(base.server_update(key, server.base, delta, round), dual)

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: tree.zeros_like(server.base.model.params),
        broadcast=lambda server, number, round: server.base.model,
        client_update=client_update,
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, (), x),
    )
