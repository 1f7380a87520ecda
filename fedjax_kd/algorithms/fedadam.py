"""FedAdam: Adam on the server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import server_opt
from fedjax_kd.components.server_opt import Variant
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit, Rate, made_optimiser
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["server_lr", "server_opt"])
def fedadam(
    task: Task,
    fit: Fit,
    *,
    eta: Rate = 0.01,
    beta_1: Scalar = 0.9,
    beta_2: Scalar = 0.99,
    tau: Scalar = 1e-3,
    variant: Variant = "paper",
    initial: Scalar | None = None,
    rule: Callable[..., optax.GradientTransformation] = server_opt.fedadam,
    **options: Any,
) -> Algorithm:
    """FedAdam: FedAvg with Adam on the server (Reddi et al., 2021).

    Against FedAvg: the server optimiser.
    Down: the model. Up: its change. Keeps: nothing; the server keeps two moments of the change.

        m = beta_1 m + (1 - beta_1) Delta
        v = beta_2 v + (1 - beta_2) Delta^2
        w = w + eta m / (sqrt(v) + tau)

    Equals FedAvg in the limit of large ``tau`` with ``eta == tau`` and ``beta_1 == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      eta: server learning rate, > 0; the paper's best are between 0.003 and 1.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      tau: degree of adaptivity, > 0; the larger, the closer to plain averaging. Paper: 1e-5 to 0.1.
      variant: "paper" for Algorithm 2; "tff" for TensorFlow Federated's optimiser, which
        corrects both moments for their start.
      initial: where v starts, >= 0; by default ``tau**2``, or 0 in the variant "tff".
      rule: the server optimiser, from `fedjax_kd.components.server_opt`; its second moment is the
        method.

    Departs from the paper: nothing, in the variant "paper"; clients vote by their examples, as in
    the paper's experiments, unless ``weighting`` says otherwise.
    Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, ICLR 2021,
    arXiv:2003.00295.
    """
    made_optimiser("rule", rule, 1.0)
    adaptive = partial(
        rule, beta_1=beta_1, beta_2=beta_2, tau=tau, variant=variant, initial=initial
    )
    return fedavg(task, fit, server_lr=eta, server_opt=adaptive, **options)
