"""FedPer: FedAvg of the body of a network; every client has a head of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedjax_kd.algorithms._partial import fedavg_without
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import Part, personal_part
from fedjax_kd.core import Algorithm, Variables
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg)
def fedper(
    task: Task, fit: Fit, *, personal: Callable[[Variables], Part] | None = None, **options: Any
) -> Algorithm:
    """FedPer: the last layer is each client's own and stays with it (Arivazhagan et al., 2019).

    Against FedAvg: a part of the model does not travel; body and head are trained jointly.
    Down: the body, which is what ``features`` uses. Up: its change. Keeps: the head.

        W_B,k, W_P,k = fit((W_B, W_P,k), client k)
        W_B = W_B + server_lr * sum_k n_k (W_B,k - W_B) / sum_k n_k

    Equals FedAvg when nothing is personal, or one client is alone; and local training when all is.

    A client that was never in a cohort, and any newcomer, has the initial head, which is untrained.

    Args:
      task: a model with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`.
      personal: the model's shapes -> booleans, one a value: what stays at home, for more than the
        last layer (the paper's K_P > 1). By default all that the model uses after ``features``,
        whatever its name.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if the task does not know the shape of its examples, or if by default all or none
        of the model would stay at home.

    Departs from the paper: nothing known. There is no code of the authors. All heads start alike,
    which the paper leaves open.
    Source: Arivazhagan, Aggarwal, Singh, Choudhary, 2019, arXiv:1912.00818.
    """
    return fedavg_without(task, fit, personal_part(task, personal), **options)
