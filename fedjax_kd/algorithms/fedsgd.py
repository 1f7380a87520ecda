"""FedSGD: large-batch SGD with one gradient a client and round."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Rate, local_training
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["server_lr"])
def fedsgd(task: Task, *, eta: Rate = 0.1, **options: Any) -> Algorithm:
    """FedSGD: the server steps along the clients' mean gradient (McMahan et al., 2017).

    Against FedAvg: one gradient over all of a client's examples takes the place of local training.
    Down: the model. Up: the negative gradient, of the model's shapes. Keeps: nothing.

        w = w - eta * sum_k n_k grad f_k(w) / sum_k n_k

    Equals FedAvg when its clients take one step on one batch of all their examples.

    Args:
      task: the model and its loss.
      eta: the learning rate, > 0.

    Departs from the paper: nothing known.
    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, AISTATS 2017, arXiv:1602.05629.
    """
    gradient_only = local_training(client_lr=1.0, batch_size=0, epochs=1)
    return fedavg(task, gradient_only, server_lr=eta, **options)
