"""FedSWA: FedAvg whose learning rate falls within a round, and whose server goes on further."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["server_lr"], fixes_local=["lr_end"])
def fedswa(
    task: Task,
    fit: Fit,
    *,
    rho: Scalar = 0.1,
    alpha: Scalar = 1.5,
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """FedSWA: stochastic weight averaging over rounds (Liu et al., 2025).

    Against FedAvg: the clients' learning rate falls in each round, the server's is above 1.
    Down: the model. Up: its change. Keeps: nothing.

        y = y - eta_i * grad f_k(y)                 local steps i = 0 ... S - 1 from y = w
        eta_i = client_lr * (1 - i / S + i / S * rho)
        w = w + alpha * mean(y - w)

    Equals FedAvg when ``rho == 1`` and ``alpha == 1``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: share of the learning rate, in [0, 1], towards which it falls in each round.
      alpha: the server's learning rate, > 0; the paper has 1.5.
      weighting: how clients vote.

    Raises:
      ValueError: if ``weighting`` is unknown, or ``fit`` has ``lr_end``, which is ``rho``.

    Departs from the paper: nothing known. The authors' code is ``rho=0``, ``alpha=1``, with twice
    the learning rate that it is given.
    Source: J. Liu and others, ICML 2025, arXiv:2507.20016.
    """
    falling = fit.but(lr_end=rho)
    return fedavg(task, falling, server_lr=alpha, weighting=weighting, **options)
