"""FedAdagrad: Adagrad on the server."""

from __future__ import annotations

from functools import partial
from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import server_opt
from fedjax_kd.components.server_opt import Variant
from fedjax_kd.components.sharp_edges import first_moment_is_left_out, warns_of
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit, Rate
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["server_lr", "server_opt"])
@warns_of(first_moment_is_left_out)
def fedadagrad(
    task: Task,
    fit: Fit,
    *,
    eta: Rate = 0.1,
    beta_1: Scalar = 0.0,
    tau: Scalar = 1e-3,
    variant: Variant = "paper",
    initial: Scalar | None = None,
    **options: Any,
) -> Algorithm:
    """FedAdagrad: FedAvg with Adagrad on the server (Reddi et al., 2021).

    Against FedAvg: the server optimiser.
    Down: the model. Up: its change. Keeps: nothing; the server keeps two moments of the change.

        m = beta_1 m + (1 - beta_1) Delta
        v = v + Delta^2
        w = w + eta m / (sqrt(v) + tau)

    Equals FedAvg in the limit of large ``tau`` with ``eta == tau`` and ``beta_1 == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      eta: server learning rate, > 0; the paper's best are between 0.03 and 10.
      beta_1: decay of the first moment, in [0, 1).
      tau: degree of adaptivity, > 0; the larger, the closer to plain averaging. Paper: 1e-5 to 0.1.
      variant: "paper" for Algorithm 2; "tff" for TensorFlow Federated's optimiser, which has
        ``tau`` under the root and no first moment.
      initial: where v starts, >= 0; by default ``tau**2`` ("paper") or 0 ("tff").

    Departs from the paper: nothing, in the variant "paper"; clients vote by their examples, as in
    the paper's experiments, unless ``weighting`` says otherwise.
    Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, ICLR 2021,
    arXiv:2003.00295.
    """
    adaptive = partial(
        server_opt.fedadagrad, beta_1=beta_1, tau=tau, variant=variant, initial=initial
    )
    return fedavg(task, fit, server_lr=eta, server_opt=adaptive, **options)
