"""FedProto: clients share the means of their features, class by class, and no weights."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms._partial import fedavg_without
from fedjax_kd.components import class_means
from fedjax_kd.components.model_parts import everything, head_types, in_one_pass
from fedjax_kd.components.pooling import summed
from fedjax_kd.core import Algorithm, Batch, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.task import Task

PredictsBy = Literal["prototypes", "head"]


@checks_options
def fedproto(
    task: Task,
    fit: Fit,
    *,
    lamb: Scalar = 1.0,
    weighting: Weighting = "uniform",
    predicts: PredictsBy = "prototypes",
) -> Algorithm:
    """FedProto: class means of features travel, models stay at home (Tan et al., 2022).

    Against FedAvg: clients keep their models and send prototypes, which pull features.
    Down: prototypes P [L, D], which of them there are [L]. Up: its own, counts [L]. Keeps: a model.

        loss_k = task.loss + lamb * mean_{x, d} (f_k(x) - P_y)^2          where P_y is known
        P_kc = mean of f_k(x) over its x of class c, as seen in the steps of a round
        P_c = sum_k a_kc P_kc / sum_k a_kc      a_kc = 1 if it has the class; or how many it saw

    A class that nobody in the cohort has keeps its prototype. It is never FedAvg: with
    ``lamb == 0`` every client trains alone.

    Args:
      task: a classifier with ``features``, vectors of the same width D for all.
      fit: local training, from `fedjax_kd.local.local_training`.
      lamb: strength of the pull towards the prototypes, >= 0; the authors' code has 1, and 0.1 on
        CIFAR-10.
      weighting: whether clients vote alike, as in the authors' code, or by their "examples" of the
        class.
      predicts: the class of the nearest known "prototypes", or by the client's own "head", which
        also predicts while no prototype is known.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if an option is unknown, or features are no vectors.

    Departs from the paper: each example's feature is pulled, and not their mean, and prototypes are
    those of the steps, both as in the authors' code, which counts the last epoch's alone, and
    predicts among the client's own classes.
    Source: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, AAAI 2022, arXiv:2105.00243.
    """
    check_choice("predicts", predicts, PredictsBy)
    both, vote = in_one_pass(task, "FedProto"), voting(weighting)
    features, logits = head_types(task)
    base = fedavg_without(task, fit, everything(task))
    nothing = class_means.no_vectors(logits.shape[-1], features.shape[-1], features.dtype)

    def client_update(
        key: Key, received: class_means.ClassSums, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        def pulled(model: Variables, batch: Batch, key: Key) -> tuple[Array, Array, Any]:
            z, outputs, stats = both(model, batch.x, key)
            apart = jnp.square(z - class_means.of_label(received.sums, batch.y)).mean(-1)
            pull = lamb * class_means.of_label(received.counts, batch.y) * apart
            return losses.batch_mean(task.example_loss(outputs, batch.y) + pull, batch), z, stats

        fitted, seen = class_means.fit_and_collect(fit, nothing, pulled)(key, own, data, round)
        sent = class_means.as_one_each(seen) if weighting == "uniform" else seen
        return Upload(sent, vote(data), fitted.metrics), fitted.model

    def predict(server: class_means.WithMeans, own: Variables, x: Any) -> Array:
        z, outputs, _ = both(own, x)
        return (
            class_means.nearness(z, server.of_classes, outputs)
            if predicts == "prototypes"
            else outputs
        )

    return base._replace(
        server_init=lambda key: class_means.WithMeans(base.server_init(key), nothing),
        client_init=lambda key, server: base.client_init(key, server.base),
        broadcast=lambda server, number, round: class_means.as_one_each(server.of_classes),
        client_update=client_update,
        aggregate=class_means.ClassSums(summed, summed),
        server_update=class_means.renew,
        predict=predict,
        uploads="values",
        needs_classes="FedProto compares features with the prototypes of classes",
    )
