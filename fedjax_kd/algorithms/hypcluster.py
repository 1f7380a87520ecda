"""HypCluster: several models, of which each client trains the one that fits it best."""

from __future__ import annotations

from typing import Any

from fedjax_kd.algorithms._clusters import fedavg_of_clusters
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import everything
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg)
def hypcluster(task: Task, fit: Fit, *, clusters: int = 2, **options: Any) -> Algorithm:
    """HypCluster: clients choose among several models by their own loss (Mansour et al., 2020).

    Against FedAvg: there are M models, and a client trains one of them.
    Down: all M models. Up: the change of one, and its number. Keeps: nothing.

        m_k = argmin_m mean loss of w_m on the examples of client k     of equal ones the first
        Delta_k = fit(w_m_k, client k) - w_m_k
        w_m = w_m + server_lr * sum_k n_k Delta_k / sum_k n_k           k with m_k = m

    A model that nobody chose stays as it is, and so does its optimiser: it may never be chosen
    again. Before they are evaluated clients choose anew, and so does whoever took no part in
    training; without examples it is the first model, which is also the server's for whoever cannot
    choose.

    Equals FedAvg when ``clusters == 1``.

    Args:
      task: the model and its loss; the initial models differ by what its ``init`` draws.
      fit: local training, from `fedjax_kd.local.local_training`.
      clusters: number of models, M, >= 1.

    Raises:
      ValueError: if a number is out of its range, or all models would start alike.

    Departs from the paper: nothing known. FedJAX can also start with models of clients that lie far
    apart, which is not offered.
    Source: Mansour, Mohri, Ro, Suresh, 2020, arXiv:2002.10619.
    """
    return fedavg_of_clusters(task, fit, everything(task), clusters, "members", **options)
