"""FedProx: FedAvg with a proximal term around the received model."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.corrections import tethered
from fedjax_kd.components.sharp_edges import spring_is_stiff, warns_of
from fedjax_kd.core import Algorithm, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(spring_is_stiff)
def fedprox(task: Task, fit: Fit, *, mu: Scalar = 0.1, **options: Any) -> Algorithm:
    """FedProx: a proximal term holds clients near the received model (Li et al., 2020).

    Against FedAvg: the local loss.
    Down: the model. Up: its change. Keeps: nothing.

        loss_k(w) + mu / 2 * ||w - w_received||^2

    Equals FedAvg when ``mu == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      mu: strength of the proximal term, >= 0; the paper uses 0.001 to 1. Unstable if the client
        learning rate times ``mu`` reaches 2.

    Departs from the paper: clients are sampled uniformly and vote by their examples, as in the
    authors' code; the paper's text samples by size and averages uniformly. Stragglers' partial work
    is not simulated.
    Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020, arXiv:1812.06127.
    """

    def objective(received: Variables) -> Objective:
        return tethered(task.loss, mu, received.params)

    return fedavg(task, fit, objective=objective, **options)
