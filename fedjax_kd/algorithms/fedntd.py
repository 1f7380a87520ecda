"""FedNTD: FedAvg with the received model as a teacher of the classes that are not the label."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import one_other_class, warns_of
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedNTD distils the other classes")
@warns_of(one_other_class)
def fedntd(
    task: Task, fit: Fit, *, beta: Scalar = 1.0, tau: Scalar = 1.0, **options: Any
) -> Algorithm:
    """FedNTD: not-true distillation keeps what clients would forget (Lee et al., 2022).

    Against FedAvg: the local loss, which costs one more forward pass.
    Down: the model. Up: its change. Keeps: nothing.

        p, q = softmax of f(x; received) / tau, f(x; w) / tau over the L - 1 classes l != y
        loss_k(w) + beta * tau^2 * mean_x KL(p || q)

    The received model is constant, in evaluation mode, and sees the same augmented inputs.

    Equals FedAvg when ``beta == 0``, or there are two classes.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      beta: weight of the distillation, >= 0; the paper uses 1.
      tau: its temperature, > 0; the paper uses 1.

    Raises:
      ValueError: if ``beta`` or ``tau`` is a number out of its range.

    Departs from the paper: nothing known. The authors' code leaves the teacher in whatever mode it
    was in, which matters to networks with BatchNorm or dropout.
    Source: Lee, Jeong, Shin, Bae, Yun, NeurIPS 2022, arXiv:2106.03097.
    """

    def objective(received: Variables) -> Objective:
        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            teacher, _ = task.apply(received, task.augment(key, batch.x))
            logits, stats = task.apply(model, batch.x, key)
            forgotten = losses.not_true(logits, teacher, batch.y, tau)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            return supervised + beta * losses.batch_mean(forgotten, batch), stats

        return loss

    return fedavg(task, fit, objective=objective, **options)
