"""FedLSD: FedAvg whose labels share their weight with the received model's predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.losses.received import Classes
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedLSD distils classes")
def fedlsd(
    task: Task,
    fit: Fit,
    *,
    beta: Scalar = 0.3,
    tau: Scalar = 3.0,
    classes: Classes = "all",
    scaled: bool = True,
    **options: Any,
) -> Algorithm:
    """FedLSD: local self-distillation from the received model (Lee et al., 2021).

    Against FedAvg: the local loss, which costs one more forward pass. Against FedNTD: the teacher
    covers all classes, and its weight is taken off the labels.
    Down: the model. Up: its change. Keeps: nothing.

        p, q = softmax(f(x; received) / tau), softmax(f(x; w) / tau)
        (1 - beta) * loss_k(w) + beta * tau^2 * mean_x KL(p || q)

    The received model is constant, in evaluation mode, and sees the same augmented inputs.

    Equals FedAvg when ``beta == 0``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      beta: the teacher's share of the loss, in [0, 1]; with 1 no label counts.
      tau: temperature of both softmaxes, > 0.
      classes: "all", or "not_true" for the paper's FedLS-NTD, which leaves out the label's class as
        FedNTD does.
      scaled: with the factor ``tau^2``, as in later versions and in code; the first one prints the
        equation without.

    Raises:
      ValueError: if ``beta`` or ``tau`` is a number out of its range, or ``classes`` is unknown.

    Departs from the paper: by the factor ``tau^2``, unless ``scaled`` is False. The paper's code is
    not public; that of its authors' circle has cross-entropy in place of KL: the same gradient.
    Source: Lee, Shin, Jeong, Yun, 2021, arXiv:2106.03097v1.
    """
    check_choice("classes", classes, Classes)

    divergence = partial(losses.received_divergence, tau=tau, classes=classes, scaled=scaled)

    def objective(received: Variables) -> Objective:
        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            teacher, _ = task.apply(received, task.augment(key, batch.x))
            logits, stats = task.apply(model, batch.x, key)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            term = losses.batch_mean(divergence(logits, teacher, batch.y), batch)
            return (1 - beta) * supervised + beta * term, stats

        return loss

    return fedavg(task, fit, objective=objective, **options)
