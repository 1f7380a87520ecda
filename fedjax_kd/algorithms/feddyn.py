"""FedDyn: dynamic regularisation of the local losses."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms._duals import fedavg_with_duals
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective", "weighting"])
def feddyn(task: Task, fit: Fit, *, alpha: Scalar = 0.01, **options: Any) -> Algorithm:
    """FedDyn: clients' losses are bent so that they agree where they meet (Acar et al., 2021).

    Against FedAvg: the local loss; clients keep a dual variable h_k, the server adds their mean.
    Down: the model. Up: its change. Keeps: h_k, of the parameters' shapes.

        y = y - lr * (grad f_k(y) + alpha * (y - w + h_k))      local steps from y = w
        h_k = h_k + y - w
        w = w + server_lr * (mean(y - w) + sum_k h_k / C)       the sum also of absent clients

    It is never FedAvg: whatever ``alpha``, the server adds the dual variables.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`; the paper trains long, with
        ``weight_decay=1e-3``, and its code clips gradients at a norm of 10.
      alpha: strength of the proximal term and of the correction, >= 0; the paper tries 0.1, 0.01
        and 0.001.

    Departs from the paper: h_k here is ``-1 / alpha`` times the paper's gradient of a client, as in
    the authors' code, which also divides ``alpha`` by a client's share of the examples.
    Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, ICLR 2021, arXiv:2111.04263.
    """
    return fedavg_with_duals(task, fit, alpha, "all", **options)
