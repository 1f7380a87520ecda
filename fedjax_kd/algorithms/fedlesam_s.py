"""FedLESAM-S: FedLESAM on SCAFFOLD."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms._lesam import back_along_the_way
from fedjax_kd.algorithms.scaffold import scaffold
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(scaffold)
def fedlesam_s(task: Task, fit: Fit, *, rho: Scalar = 0.1, **options: Any) -> Algorithm:
    """FedLESAM-S: SCAFFOLD with gradients behind the global model's way (Fan et al., 2024).

    Against FedAvg: a correction of every local gradient, kept by the clients and the server.
    Against FedLESAM: SCAFFOLD's control variates.
    Down: the model and the server's control c. Up: the change of both. Keeps: its control c_k, and
    the model that it received last.

        q = y - rho * (w - w_last) / ||w - w_last||     local steps from y = w
        y = y - client_lr * (grad f_k(q) - c_k + c)     all else is SCAFFOLD's

    Equals SCAFFOLD when ``rho == 0``, and FedAvg in the first round, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: distance of the point q in the space of all parameters, >= 0.

    Raises:
      ValueError: if ``option`` or ``weighting`` is unknown.

    Departs from the paper: nothing known. The published code has a tenth of the correction.
    Source: Fan, Hu, Yao, Niu, Zhang, Sugiyama, Wang, ICML 2024, arXiv:2405.18890.
    """
    return back_along_the_way(scaffold, task, fit, rho, **options)
