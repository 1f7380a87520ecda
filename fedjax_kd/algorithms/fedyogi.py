"""FedYogi: Yogi on the server."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedadam import fedadam
from fedjax_kd.components import server_opt
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedadam, fixes=["rule"])
def fedyogi(task: Task, fit: Fit, **options: Any) -> Algorithm:
    """FedYogi: FedAvg with Yogi on the server (Reddi et al., 2021).

    Against FedAvg: the server optimiser. Against FedAdam: the second moment, which moves by a step
    that depends on ``Delta^2`` alone, and so shrinks slowly.
    Down: the model. Up: its change. Keeps: nothing; the server keeps two moments of the change.

        m = beta_1 m + (1 - beta_1) Delta
        v = v - (1 - beta_2) Delta^2 sign(v - Delta^2)
        w = w + eta m / (sqrt(v) + tau)

    Equals FedAvg in the limit of large ``tau`` with ``eta == tau`` and ``beta_1 == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      **options: those of `fedjax_kd.algorithms.fedadam`; the "tff" variant starts v at 1e-6.

    Departs from the paper: as FedAdam.
    Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, ICLR 2021,
    arXiv:2003.00295.
    """
    return fedadam(task, fit, rule=server_opt.fedyogi, **options)
