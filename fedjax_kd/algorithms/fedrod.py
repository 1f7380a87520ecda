"""FedROD: a head for all that is trained as if classes were balanced, and one of each client's."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array

from fedjax_kd import losses, tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.class_statistics import own_counts
from fedjax_kd.components.model_parts import (
    classifier,
    combine,
    in_one_pass,
    nonempty_head,
    partition,
)
from fedjax_kd.components.own_head import change_of_both
from fedjax_kd.core import Algorithm, Batch, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedROD balances classes")
def fedrod(
    task: Task,
    fit: Fit,
    *,
    gamma: Scalar = 1.0,
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedROD: a generic predictor and a personal one on the same body (Chen, Chao, 2022).

    Against FedAvg: the local loss is a balanced softmax; a second head is trained on constant
    features.
    Down: the model, body and generic head G. Up: its change. Keeps: the personal head P.

        z = G f, f = body(x)
        CE(z + gamma * log n_k, y)                           gives the gradient of body and G
        CE(constant(z) + P constant(f), y)                   gives that of P
        generic prediction: z; of client k: z + P_k f

    with n_k, the client's own examples of each class; classes that it lacks are left out of the
    balanced softmax. P starts at zero: who was in no cohort predicts as the generic model does.

    Equals FedAvg when ``gamma == 0``, in what the server keeps.

    Args:
      task: a classifier with ``features`` that knows the shape of its examples.
      fit: local training of all three, in one optimiser; ``clip_norm`` is of all gradients.
      gamma: strength of the balance, >= 0; the paper has 1.
      weighting: how clients vote.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if ``gamma`` is out of its range, or the task cannot tell its head.

    Departs from the paper: its hypernetwork, which makes P of a client's class distribution, is
    left out, and it does not say how P starts. There is no code of the authors; PFLlib's P starts
    as a copy of G.
    Source: Chen, Chao, ICLR 2022, arXiv:2107.00778.
    """
    head, both, classify = nonempty_head(task), in_one_pass(task, "FedROD"), classifier(task)
    change = change_of_both(fit, weighting)

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        balance = losses.class_priors(own_counts(task, received, data), gamma)

        def loss(model: Variables, own: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            features, generic, stats = both(model, batch.x, key)
            constant = jax.lax.stop_gradient((features, generic))
            personal = constant[1] + classify(combine(own, model), constant[0])
            outputs = losses.adjusted(generic, balance), personal
            values = [losses.batch_mean(task.example_loss(z, batch.y), batch) for z in outputs]
            return values[0] + values[1], stats

        return change(key, (received, own), data, loss, round)

    def predict(server: GlobalModel, own: Variables, x: PyTree) -> Array:
        features, generic, _ = both(server.model, x)
        return generic + classify(combine(own, server.model), features)

    base = fedavg(task, fit, weighting=weighting, **options)
    return base._replace(
        client_init=lambda key, server: tree.zeros_like(partition(head, server.model)[1]),
        client_update=client_update,
        predict=predict,
        judged_by="clients",
    )
