"""FedGAMMA: SCAFFOLD whose clients look for flat minima."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.scaffold import scaffold
from fedjax_kd.components.sharpness import sharp_ascent, uphill
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(scaffold)
def fedgamma(task: Task, fit: Fit, *, rho: Scalar = 0.01, **options: Any) -> Algorithm:
    """FedGAMMA: SCAFFOLD by the gradient at the worst point near (Dai et al., 2023).

    Against FedAvg: a correction of every local gradient, kept by the clients and the server.
    Against SCAFFOLD: the local gradient, which costs two.
    Down: the model and the server's control c. Up: the change of both. Keeps: its control c_k.

        q = y + rho * grad f_k(y) / ||grad f_k(y)||
        y = y - lr * (grad f_k(q) - c_k + c)      all else is SCAFFOLD's

    Equals SCAFFOLD when ``rho == 0``, and FedAvg then in the first round.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: distance of the point q in the space of all parameters, >= 0.

    Raises:
      ValueError: if ``option`` or ``weighting`` is unknown.

    Departs from the paper: with ``batch_size=0`` each 64 examples of a client have their own q.
    FL-Simulator divides every client's change by the steps of the first client.
    Source: Dai, Yang, Sun, Shen, Tian, Wang, Zhang, IEEE TNNLS 2023.
    """
    return scaffold(task._replace(loss=uphill(task.loss, sharp_ascent(rho))), fit, **options)
