"""pFedHN: a hypernetwork of the server makes a model for each client."""

from __future__ import annotations

from typing import Any

import jax

from fedjax_kd.algorithms._generated import fedavg_of_made_models
from fedjax_kd.components.hypernet import hypernet_learner
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(hypernet_learner)
def pfedhn(task: Task, fit: Fit, **options: Any) -> Algorithm:
    """pFedHN: personal models from a hypernetwork, which never travels (Shamsian et al., 2021).

    Against FedAvg: the server has no model, but a network that makes one for each client.
    Down: a model of the client's own. Up: the model's change, all of them kept apart. Keeps: the
    client's number; the server keeps the network phi and the embeddings V ``[C, E]``.

        theta_k = h(v_k; phi)
        Delta_k = theta_k - fit(theta_k, client k)
        g = clip(1 / K sum_k (d theta_k / d(phi, V))^T Delta_k)
        (phi, V) = (phi, V) - server_lr * momentum(g + server_decay (phi, V))

    Equals FedAvg when ``hidden == 0``, ``start == "model"``, ``server_lr == 1``, neither momentum
    nor decay nor clipping act, and clients of FedAvg vote uniformly.

    phi has ``hidden + 1`` numbers for each number of the model. Embeddings of clients that are not
    in the cohort move, too, by momentum and decay.

    Args:
      task: the model and its loss.
      fit: local training; in the paper 50 steps with learning rate 0.005, momentum 0.9, weight
        decay 5e-5 and clipping at 50. The other options are those of
        `fedjax_kd.components.hypernet.hypernet_learner`.

    Raises:
      ValueError: if an option is unknown or out of its range, or ``population`` is not that of the
        federation.

    Departs from the paper: there, a round has one client; of more, the gradients are averaged. The
    sign of Delta is that of the authors' code; with the paper's, the step would climb. Clients that
    were in no cohort are evaluated with the mean embedding.
    Source: Shamsian, Navon, Fetaya, Chechik, ICML 2021, arXiv:2103.04628.
    """
    nothing = jax.tree.map(lambda _: False, jax.eval_shape(task.init, jax.random.key(0)))
    return fedavg_of_made_models(task, fit, nothing, hypernet_learner(**options))
