"""Standalone training: what clients reach without a federation."""

from __future__ import annotations

from fedjax_kd.algorithms._partial import fedavg_without
from fedjax_kd.components.model_parts import everything
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.task import Task


def standalone(task: Task, fit: Fit) -> Algorithm:
    """Standalone training: every client trains a model of its own and sends nothing.

    Against FedAvg: nothing travels.
    Down: nothing. Up: nothing. Keeps: its model, params and stats.

        w_k = fit(w_k, client k)

    The baseline that personalisation must beat. All clients start with the same model; the server's
    stays as it was.

    Equals FedAvg when one client is alone.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.

    Source: common practice; "local only" in the tables of most papers on personalisation.
    """
    return fedavg_without(task, fit, everything(task))
