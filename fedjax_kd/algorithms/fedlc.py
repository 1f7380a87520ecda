"""FedLC: FedAvg with margins that grow as a client's examples of a class become fewer."""

from __future__ import annotations

from functools import partial
from typing import Any

from fedjax_kd import losses
from fedjax_kd.algorithms._counted import fedavg_by_counts
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg_by_counts, needs_classes="FedLC counts the examples of each class")
def fedlc(task: Task, fit: Fit, *, tau: Scalar = 1.0, **options: Any) -> Algorithm:
    """FedLC: logits are calibrated by the client's label counts (Zhang et al., 2022).

    Against FedAvg: the local loss.
    Down: the model. Up: its change. Keeps: nothing.

        z_c = f(x; w)_c - tau * n_kc^(-1/4)                     c of the classes with n_kc > 0
        loss_k(w) = mean_x -log(e^{z_y} / sum_c e^{z_c})

    with n_kc, the client's own examples of class c. Classes that it lacks are left out of the sum:
    their logits have no gradient. Predictions have no margins.

    Equals FedAvg when ``tau == 0``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      tau: strength of the margins, >= 0; others' codes have 1 or 0.5.

    Departs from the paper: nothing known. There is no code of the authors; some of others' counts
    the examples of all clients together, which gives everyone the same margins.
    Source: Zhang, Li, Li, Xu, Wu, Ding, Wu, ICML 2022, arXiv:2209.00189.
    """
    return fedavg_by_counts(task, fit, partial(losses.class_margins, tau=tau), **options)
