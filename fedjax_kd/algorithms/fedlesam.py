"""FedLESAM: sharpness-aware steps for the price of plain ones."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms._lesam import back_along_the_way
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedlesam(task: Task, fit: Fit, *, rho: Scalar = 0.1, **options: Any) -> Algorithm:
    """FedLESAM: the global model's way tells where its loss is high (Fan et al., 2024).

    Against FedAvg: the local gradient, which costs one. Against FedSAM: the ascent, which is that
    of the global loss, and holds for a whole round.
    Down: the model. Up: its change. Keeps: the model that it received last.

        q = y - rho * (w - w_last) / ||w - w_last||     local steps from y = w
        y = y - client_lr * grad f_k(q)

    Before its first round a client has the initial model as the last one.

    Equals FedAvg when ``rho == 0``, and in the first round.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: distance of the point q in the space of all parameters, >= 0.

    Departs from the paper: nothing known. In the published code the way is the last step of the
    server for all clients, and shifts each tensor by one number of it, which is not the method.
    Source: Fan, Hu, Yao, Niu, Zhang, Sugiyama, Wang, ICML 2024, arXiv:2405.18890.
    """
    return back_along_the_way(fedavg, task, fit, rho, **options)
