"""FedLESAM-D: FedLESAM on FedDyn."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms._duals import fedavg_with_duals
from fedjax_kd.algorithms._lesam import back_along_the_way
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective", "weighting"])
def fedlesam_d(
    task: Task, fit: Fit, *, rho: Scalar = 0.1, lamb: Scalar = 0.1, **options: Any
) -> Algorithm:
    """FedLESAM-D: FedDyn with gradients behind the global model's way (Fan et al., 2024).

    Against FedAvg: the local loss; clients keep a dual variable h_k. Against FedLESAM: FedDyn's
    proximal term and correction.
    Down: the model. Up: its change. Keeps: h_k, and the model that it received last.

        q = y - rho * (w - w_last) / ||w - w_last||     local steps from y = w
        y = y - client_lr * (grad f_k(q) + lamb * (y - w + h_k))
        h_k = h_k + y - w
        w = w + server_lr * (mean(y - w) + sum_k h_k / C)

    It is never FedAvg: whatever ``lamb``, the server adds the dual variables.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: distance of the point q in the space of all parameters, >= 0.
      lamb: strength of the proximal term and of the correction, >= 0.

    Departs from the paper: nothing known.
    Source: Fan, Hu, Yao, Niu, Zhang, Sugiyama, Wang, ICML 2024, arXiv:2405.18890.
    """
    options |= {"lamb": lamb, "duals": "all"}
    return back_along_the_way(fedavg_with_duals, task, fit, rho, **options)
