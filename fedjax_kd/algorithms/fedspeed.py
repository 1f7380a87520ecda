"""FedSpeed: dual variables against drift, and gradients taken uphill against sharp minima."""

from __future__ import annotations

from typing import Any, Literal

from fedjax_kd.algorithms._duals import fedavg_with_duals
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharpness import plain_ascent, sharp_ascent, uphill
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

SpeedVariant = Literal["paper", "code"]


@extends(fedavg, fixes=["objective", "weighting"])
def fedspeed(
    task: Task,
    fit: Fit,
    *,
    rho: Scalar = 0.1,
    alpha: Scalar = 1.0,
    lamb: Scalar = 0.1,
    variant: SpeedVariant = "paper",
    **options: Any,
) -> Algorithm:
    """FedSpeed: a prox-correction and a perturbed gradient (Sun et al., 2023).

    Against FedAvg: the local loss, whose gradient costs two; clients keep a dual variable h_k.
    Down: the model. Up: its change, and h_k added to it. Keeps: h_k, of the parameters' shapes.

        q = y + rho * grad f_k(y)                               local steps from y = w
        g = alpha * grad f_k(q) + (1 - alpha) * grad f_k(y)
        y = y - lr * (g + lamb * (y - w + h_k))
        h_k = h_k + y - w
        w = w + server_lr * mean(y - w + h_k)

    It is never FedAvg: whatever ``lamb``, the server adds the dual variables, so that in the first
    round it goes twice as far. Over all clients the h_k nearly cancel, over a small cohort they do
    not, and the model jumps: a larger ``lamb`` shortens them, and "code" has the mean of all.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: learning rate of the step uphill, >= 0; in the variant "code" its length.
      alpha: share of the gradient there, in [0, 1]; the authors' code has 1.
      lamb: strength of the proximal term and of the correction, >= 0; 1 / lambda in the paper.
      variant: "paper" is above; in "code" the step uphill is ``rho * grad / ||grad||``, clients
        send their change alone, and the server adds the mean h_k of all clients, as in FedDyn.

    Raises:
      ValueError: if ``variant`` is unknown.

    Departs from the paper: with ``batch_size=0`` each 64 examples of a client have their own q.
    Source: Sun, Shen, Huang, Ding, Tao, ICLR 2023, arXiv:2302.10429.
    """
    check_choice("variant", variant, SpeedVariant)
    paper = variant == "paper"
    sharp = uphill(task.loss, (plain_ascent if paper else sharp_ascent)(rho), alpha)
    duals = "present" if paper else "all"
    return fedavg_with_duals(task._replace(loss=sharp), fit, lamb, duals, **options)
