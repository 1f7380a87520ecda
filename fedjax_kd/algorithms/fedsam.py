"""FedSAM: FedAvg whose clients look for flat minima."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharpness import sharp_ascent, uphill
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedsam(task: Task, fit: Fit, *, rho: Scalar = 0.1, **options: Any) -> Algorithm:
    """FedSAM: local steps by the gradient at the worst point near (Qu et al., 2022).

    Against FedAvg: the local gradient, which costs two.
    Down: the model. Up: its change. Keeps: nothing.

        q = w + rho * grad f(w) / ||grad f(w)||
        w = w - client_lr * grad f(q)             the same batch for both

    Equals FedAvg when ``rho == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`. Its weight decay acts at w, and is
        no part of the ascent.
      rho: distance of the point q in the space of all parameters, >= 0; the papers use 0.01 to 0.5.

    Departs from the paper: clients vote by their examples, unless ``weighting="uniform"``. Running
    statistics are of the pass at w; in the code of Caldarola et al. of both. With ``batch_size=0``
    each 64 examples of a client have a point q of their own.
    Source: Qu, Li, Duan, Liu, Tang, Lu, ICML 2022, arXiv:2206.02618; Caldarola, Caputo, Ciccone,
    ECCV 2022, arXiv:2203.11834.
    """
    return fedavg(task._replace(loss=uphill(task.loss, sharp_ascent(rho))), fit, **options)
