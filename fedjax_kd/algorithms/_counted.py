"""FedAvg whose clients adjust their logits in training by their own counts of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.class_statistics import own_counts
from fedjax_kd.core import Algorithm, Batch, Client, Data, Key, PyTree, Round, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
def fedavg_by_counts(
    task: Task,
    fit: Fit,
    adjust: Callable[[Array], losses.Adjustment],
    *,
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedAvg of a loss whose logits are adjusted by the client's own counts.

    Down: the model. Up: its change. Keeps: nothing; counts are made anew in every round.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      adjust: counts of a client ``[L]`` to what becomes of its logits, from
        `fedjax_kd.losses.label_skew`.
      weighting: whether clients vote by their examples or all alike.
    """
    base, change = fedavg(task, fit, weighting=weighting, **options), local_change(fit, weighting)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        by = adjust(own_counts(task, received, data))

        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            logits, stats = task.apply(model, batch.x, key)
            values = task.example_loss(losses.adjusted(logits, by), batch.y)
            return losses.batch_mean(values, batch), stats

        upload, _ = change(key, received, data, loss, round)
        return upload, client

    return base._replace(client_update=client_update)
