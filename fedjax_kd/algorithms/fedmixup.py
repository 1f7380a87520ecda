"""FedMixup: FedAvg on examples that are mixed in pairs."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import nothing_to_mix, warns_of
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(nothing_to_mix)
def fedmixup(task: Task, fit: Fit, *, gamma: Scalar = 0.1, **options: Any) -> Algorithm:
    """Mixup as local regularisation, a comparison of FedAlign's (Mendieta et al., 2022).

    Against FedAvg: the local loss and what it sees.
    Down: the model. Up: its change. Keeps: nothing.

        lam ~ Beta(gamma, gamma), once a batch;  x' = lam x + (1 - lam) x[partner]
        lam * loss(f(x'; w), y) + (1 - lam) * loss(f(x'; w), y[partner])

    Partners are a random permutation of the batch, after augmentation.

    Equals FedAvg when ``gamma == 0``, or a batch has one example.

    Args:
      task: of inputs that are floats or bytes.
      fit: local training, from `fedjax_kd.local.local_training`.
      gamma: the larger, the more is mixed, >= 0; the paper uses 0.1 (its code is off by default).

    Raises:
      ValueError: if ``gamma`` is a number < 0.
      TypeError: if inputs are symbols, when the simulation is built.

    Departs from the paper: nothing known. Bytes are mixed before they are normalised, and rounded.
    Source: Mendieta, Yang, Wang, Lee, Ding, Chen, CVPR 2022, arXiv:2111.14213; mixup: Zhang, Cisse,
    Dauphin, Lopez-Paz, ICLR 2018, arXiv:1710.09412.
    """
    seen = task.unaugmented or task

    def objective(received: Variables) -> Objective:
        del received

        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            batch = batch._replace(x=task.augment(key, batch.x))
            mixed = losses.mixup(jax.random.fold_in(key, 1), batch, gamma)
            logits, stats = seen.apply(model, mixed.batch.x, key)
            partners = batch._replace(y=mixed.partner_y)
            first, second = (
                losses.batch_mean(task.example_loss(logits, b.y), b) for b in (batch, partners)
            )
            return losses.mixed_loss(first, second, mixed.share), stats

        return loss

    return fedavg(task, fit, objective=objective, **options)
