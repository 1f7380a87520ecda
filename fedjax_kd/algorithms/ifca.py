"""IFCA: clusters of clients, each with a model, found anew in every round."""

from __future__ import annotations

from typing import Any, Literal

from fedjax_kd.algorithms._clusters import Divisor, fedavg_of_clusters
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import everything, nonempty_head
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Averaging = Literal["models", "gradients"]
Common = Literal["nothing", "body"]


@extends(fedavg)
def ifca(
    task: Task,
    fit: Fit,
    *,
    clusters: int = 2,
    averaging: Averaging = "models",
    common: Common = "nothing",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """IFCA: clients find their cluster by its model's loss (Ghosh, Chung, Yin, Ramchandran, 2020).

    Against FedAvg: there are M models, and a client trains one of them.
    Down: M models, or a body and M heads. Up: the change of one, and its number. Keeps: nothing.

        m_k = argmin_m mean loss of w_m on the examples of client k
        w_m = w_m + server_lr * mean(fit(w_m, client k) - w_m)                 "models"
        w_m = w_m - server_lr * sum(client_lr * grad f_k(w_m)) / K             "gradients"

    over the clients k with ``m_k == m``. For gradients they take one step on all their examples,
    and K are all clients of the cohort, so that small clusters move slowly.

    Else it is HypCluster, of whose clusters that nobody chose, and newcomers, the same holds.

    Equals FedAvg, given the same ``weighting``, when ``clusters == 1``.

    Args:
      task: the model and its loss; the initial models differ by what its ``init`` draws.
      fit: local training, from `fedjax_kd.local.local_training`, whose ``batch_size``, ``epochs``
        and ``steps`` are set aside for gradients.
      clusters: number of models, M, >= 1.
      averaging: of "models" within a cluster (the paper's option II), or of "gradients" over all
        clients (its option I, and the authors' code for synthetic data).
      common: what all clusters have together and all clients train: "nothing", or the "body" of a
        network, so that they differ in the last layer.
      weighting: how clients vote; those of the authors' code for FEMNIST by their examples.

    Raises:
      TypeError: if the body is to be common and the module has no ``features``.
      ValueError: if a number is out of its range, a choice is unknown, all models would start
        alike, or the task does not know the shape of its examples.

    Departs from the paper: where not all clients are in the cohort, its option I may be read as a
    mean over these, or over all. The authors' FEMNIST starts from a body that FedAvg has trained.
    Source: Ghosh, Chung, Yin, Ramchandran, NeurIPS 2020, arXiv:2006.04088.
    """
    check_choice("averaging", averaging, Averaging)
    check_choice("common", common, Common)
    part = nonempty_head(task) if common == "body" else everything(task)
    divisor: Divisor = "members"
    if averaging == "gradients":
        fit, divisor = fit.but(batch_size=0, epochs=1, steps=None), "everyone"
    return fedavg_of_clusters(task, fit, part, clusters, divisor, weighting=weighting, **options)
