"""FedAvgM: momentum on the server."""

from __future__ import annotations

from functools import partial
from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import server_opt
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit, Rate
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["server_lr", "server_opt"])
def fedavgm(
    task: Task, fit: Fit, *, eta: Rate = 1.0, beta: Scalar = 0.9, **options: Any
) -> Algorithm:
    """FedAvgM: FedAvg with heavy-ball momentum on the server (Hsu, Qi, Brown, 2019).

    Against FedAvg: the server optimiser.
    Down: the model. Up: its change. Keeps: nothing.

        v = beta v + Delta
        w = w + eta v

    Equals FedAvg when ``beta == 0`` and ``eta == 1``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      eta: server learning rate, > 0; the effective one is ``eta / (1 - beta)``.
      beta: momentum in [0, 1); the paper uses 0, 0.7, 0.9, 0.97, 0.99 and 0.997.

    Departs from the paper: nothing known. MOON's code damps the momentum by ``1 - beta``.
    Source: Hsu, Qi, Brown, 2019, arXiv:1909.06335.
    """
    return fedavg(
        task, fit, server_lr=eta, server_opt=partial(server_opt.fedavgm, beta=beta), **options
    )
