"""FedAvg whose clients train a second model in the same steps, which stays with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.joint_models import as_one, as_two
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedavg_beside(
    task: Task,
    fit: Fit,
    objective: Objective,
    init: Callable[[Key, GlobalModel], Variables],
    predict: Callable[[Variables, Variables, PyTree], Array],
    *,
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """FedAvg whose clients keep a second model, and train both by one objective.

    Down: the model. Up: its change. Keeps: the second model.

    Both see the same batches. The optimiser steps each by its own gradient, but ``clip_norm`` is of
    both gradients together.

    Args:
      task: the model that travels.
      fit: local training of both models at once.
      objective: of both models, from `as_one`; it may write into statistics of the second one
        what no optimiser shall step.
      init: ``(key, server) -> second model`` of a newcomer.
      predict: ``(global model, second model, x) -> logits`` that a client uses.
      weighting: how clients vote.
    """
    base, change = fedavg(task, fit, weighting=weighting, **options), local_change(fit, weighting)

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        upload, fitted = change(key, as_one(received, own), data, objective, round)
        return upload._replace(message=as_two(upload.message).shared), as_two(fitted.model).own

    return base._replace(
        client_init=init,
        client_update=client_update,
        predict=lambda server, own, x: predict(server.model, own, x),
        judged_by="clients",
    )
