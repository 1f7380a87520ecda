"""q-FedAvg: clients whose loss is large pull harder."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.clusters import mean_losses
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, Variables, mean
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task

_LEAST = 1e-10  # added to losses, as in the authors' code: for q < 1 they have negative powers


class FairChange(NamedTuple):
    """A client's change as a gradient, times a power of its loss, and its part of the divisor."""

    gradient: Any  # Variables; statistics of normalisation are neither multiplied nor divided
    curvature: Any


@extends(fedavg, fixes=["objective"])
def qfedavg(
    task: Task, fit: Fit, *, q: Scalar = 1.0, weighting: Weighting = "uniform", **options: Any
) -> Algorithm:
    """q-FedAvg: the loss is to be more alike over clients (Li, Sanjabi, Beirami, Smith, 2020).

    Against FedAvg: changes are multiplied by powers of losses, and divided by a bound of curvature.
    Down: the model. Up: a weighted change, of the model's shapes, and a number. Keeps: nothing.

        F_k = mean loss of w on the examples of client k
        D_k = Delta_k / lr                                lr: mean rate of the local steps
        h_k = q F_k^(q-1) ||D_k||^2 + F_k^q / lr
        w = w + server_lr * sum_k p_k F_k^q D_k / sum_k p_k h_k

    where p_k is a client's share of the votes. It minimises ``sum_k p_k F_k^(q+1) / (q + 1)``.

    Equals FedAvg when ``q == 0``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      q: how much large losses count, >= 0; the paper uses 0.001 to 5, by data set.
      weighting: how clients vote; "examples" belongs to uniform sampling, "uniform" to sampling by
        examples, as in the paper.

    Raises:
      ValueError: if ``q`` is out of its range, or ``weighting`` unknown.

    Departs from the paper: clients may vote by examples. In the authors' code lr is the first
    round's, also where rates decay.
    Source: Li, Sanjabi, Beirami, Smith, ICLR 2020, arXiv:1905.10497.
    """
    base = fedavg(task, fit, weighting=weighting, **options)
    change_by = local_change(fit, weighting)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, fitted = change_by(key, received, data, task.loss, round)
        per_rate = jnp.maximum(fitted.steps, 1).astype(fitted.travel.dtype)
        per_rate /= jnp.where(fitted.travel == 0, 1, fitted.travel)
        (loss,) = mean_losses(task, jax.tree.map(lambda a: a[None], received), data) + _LEAST
        weight, slope = loss**q, q * loss ** (q - 1)
        gradient = tree.scale(per_rate, upload.message.params)
        curvature = slope * tree.sq_norm(gradient).astype(loss.dtype)
        curvature += weight * per_rate.astype(loss.dtype)
        gradient = upload.message._replace(params=tree.scale(weight, gradient))
        return upload._replace(message=FairChange(gradient, curvature)), client

    def server_update(
        key: Key, server: GlobalModel, update: FairChange, round: Round
    ) -> GlobalModel:
        # Losses near 0 may have powers that are 0 in float32: then there is nothing to be learned.
        rate = jnp.where(update.curvature > 0, 1 / update.curvature, 0)
        params = tree.scale(rate, update.gradient.params)
        return base.server_update(key, server, update.gradient._replace(params=params), round)

    return base._replace(
        client_update=client_update,
        aggregate=FairChange(mean, mean),
        server_update=server_update,
    )
