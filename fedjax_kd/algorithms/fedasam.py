"""FedASAM: FedSAM with distances that scale with the weights."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharpness import adaptive_ascent, uphill
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedasam(
    task: Task, fit: Fit, *, rho: Scalar = 0.7, eta: Scalar = 0.2, **options: Any
) -> Algorithm:
    """FedASAM: the worst point near, in units of the weights (Caldarola et al., 2022).

    Against FedAvg: the local gradient, which costs two. Against FedSAM: what counts as near.
    Down: the model. Up: its change. Keeps: nothing.

        T = |w| + eta, or 1 for biases            one number a parameter
        q = w + rho * T^2 grad f(w) / ||T grad f(w)||
        w = w - client_lr * grad f(q)             the same batch for both

    Equals FedAvg when ``rho == 0``.

    Args:
      task: the model and its loss. Biases are the parameters named "bias" or "b".
      fit: local training, from `fedjax_kd.local.local_training`. Its weight decay acts at w, and is
        no part of the ascent.
      rho: distance of the point q in these units, >= 0; the paper uses 0.7 for CIFAR-10.
      eta: unit of a weight that is 0, >= 0; the paper uses 0.2 for CIFAR-10.

    Departs from the paper: its averaging of the server's models (SWA) is not part of the method
    here. Running statistics are of the pass at w, in the authors' code of both. With
    ``batch_size=0`` each 64 examples of a client have a point q of their own.
    Source: Caldarola, Caputo, Ciccone, ECCV 2022, arXiv:2203.11834; Kwon, Kim, Park, Choi, ICML
    2021, arXiv:2102.11600.
    """
    return fedavg(task._replace(loss=uphill(task.loss, adaptive_ascent(rho, eta))), fit, **options)
