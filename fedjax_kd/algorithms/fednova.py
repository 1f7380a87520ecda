"""FedNova: changes divided by what local training makes of one gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.corrections import tethered
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, Variables, mean
from fedjax_kd.local import Fit, Fitted, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class NormalisedChange(NamedTuple):
    """A client's change for each unit of ``||a||``, and how many of these it took."""

    step: Any  # Variables; statistics of normalisation are not divided
    length: Any


@extends(fedavg, fixes=["objective"])
def fednova(
    task: Task, fit: Fit, *, mu: Scalar = 0.0, weighting: Weighting = "examples", **options: Any
) -> Algorithm:
    """FedNova: clients that take more steps pull no harder (Wang et al., 2020).

    Against FedAvg: clients divide their change by ``||a_k||``, the server multiplies by the mean.
    Down: the model. Up: a normalised change, of the model's shapes, and a number. Keeps: nothing.

        ||a_k|| = tau_k                                                          plain SGD
        ||a_k|| = (tau_k - rho (1 - rho^tau_k) / (1 - rho)) / (1 - rho)            momentum rho
        ||a_k|| = (1 - (1 - lr mu)^tau_k) / (lr mu)                              proximal term mu
        w = w + server_lr * sum_k p_k l_k * sum_k p_k Delta_k / ||a_k||

    where tau_k is the number of local steps, p_k a client's share of the votes, and l_k is tau_k
    with a proximal term, else ``||a_k||``.

    Equals FedAvg when all clients take the same number of steps and ``mu == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`, by SGD; its ``client_momentum`` is
        rho. Other optimisers are treated as plain SGD.
      mu: strength of FedProx's proximal term, >= 0, of which ``||a_k||`` knows without momentum.
      weighting: how clients vote.

    Raises:
      ValueError: if ``weighting`` is unknown.

    Departs from the paper: momentum with a proximal term is taken for momentum alone.
    Source: Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020, arXiv:2007.07481.
    """
    base = fedavg(task, fit, weighting=weighting, **options)
    change_by, momentum = local_change(fit, weighting), (fit.options or {}).get("client_momentum")

    def length_of(fitted: Fitted) -> Array:
        steps = fitted.steps.astype(fitted.travel.dtype)
        if momentum is not None:
            return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
        shrinking = mu * fitted.travel / jnp.maximum(steps, 1)
        safe = jnp.where(shrinking == 0, 1, shrinking)
        return jnp.where(shrinking == 0, steps, (1 - (1 - safe) ** steps) / safe)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        loss = tethered(task.loss, mu, received.params)
        upload, fitted = change_by(key, received, data, loss, round)
        norm, change = length_of(fitted), upload.message
        step = change._replace(params=tree.scale(1 / jnp.where(norm == 0, 1, norm), change.params))
        length = jnp.where(mu == 0, norm, fitted.steps.astype(norm.dtype))
        return upload._replace(message=NormalisedChange(step, length)), client

    def server_update(
        key: Key, server: GlobalModel, update: NormalisedChange, round: Round
    ) -> GlobalModel:
        delta = update.step._replace(params=tree.scale(update.length, update.step.params))
        return base.server_update(key, server, delta, round)

    return base._replace(
        client_update=client_update,
        aggregate=NormalisedChange(mean, mean),
        server_update=server_update,
    )
