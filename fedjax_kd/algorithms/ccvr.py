"""CCVR: FedAvg whose classifier is retrained at the end on features drawn from Gaussians."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends, options_of
from fedjax_kd.task import Task
from fedjax_kd.wrappers.ccvr import with_ccvr


@extends(with_ccvr, fedavg, fixes=["model_of", "with_model"])
def ccvr(task: Task, fit: Fit, **options: Any) -> Algorithm:
    """CCVR: the head is calibrated on virtual features after training (Luo et al., 2021).

    Against FedAvg: from round ``after`` on no client trains: they describe their features, and the
    server trains the head. `with_ccvr` does this to any other algorithm.
    Down: the model. Up: its change, and of each class's features [D] the count, the mean and the
    scatter [D, D]; these before the calibration, and that in it, are zeros that are not counted
    (``share_up``). Keeps: nothing.

        N_c, mu_c, Sigma_c = count, mean and covariance of all clients' features of class c
        N_c = sum_k N_ck;  mu_c = sum_k N_ck / N_c mu_ck
        (N_c - 1) Sigma_c = sum_k (N_ck - 1) Sigma_ck + sum_k N_ck (mu_ck - mu_c)(mu_ck - mu_c)^T
        head = argmin sum_c N_c / N  mean_{z ~ N(mu_c, Sigma_c)} CE(head(z), c)

    For one calibration, as in the paper, train ``after + 1`` rounds, the last with all clients.
    With smaller cohorts train more: each round calibrates by all features described so far.

    Equals FedAvg before round ``after``, and from then on in all but the head.

    Args:
      task: a classifier with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if a number is out of its range, ``shares`` is unknown, or the task cannot tell
        its head.

    Departs from the paper: each class has as many virtual features as the others, and N_c / N is
    their weight. Where ``tukey`` is given, virtual features are brought back to the space of the
    model's own before the head is trained, so that the model stays one. A class with fewer than two
    features is left out. Covariances are moments of the data: they are sent openly.
    Source: Luo, Chen, Hu, Zhang, Liang, Feng, NeurIPS 2021, arXiv:2106.05001. No code of theirs.
    """
    own, others = options_of(with_ccvr, options)
    return with_ccvr(fedavg(task, fit, **others), task, **own)
