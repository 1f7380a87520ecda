"""MOON: FedAvg with features kept near the received model's and away from the client's old ones."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import in_one_pass
from fedjax_kd.core import Algorithm, Batch, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Newcomers = Literal["skip", "random"]


class Past(NamedTuple):
    """A client's model after its last local training; ``known`` is false before the first."""

    model: Variables
    known: Bool[Array, ""]


@extends(fedavg, fixes=["objective"])
def moon(
    task: Task,
    fit: Fit,
    *,
    mu: Scalar = 1.0,
    tau: Scalar = 0.5,
    newcomers: Newcomers = "skip",
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """MOON: contrast of models, example by example (Li, He, Song, 2021).

    Against FedAvg: the local loss, which costs two more forward passes.
    Down: the model. Up: its change. Keeps: its model after its last local training, and a boolean.

        z, z_glob, z_prev = features(x) of w, of the received model, of the client's last model
        loss_k(w) + mu * mean_x -log(e^{cos(z, z_glob) / tau}
                                     / (e^{cos(z, z_glob) / tau} + e^{cos(z, z_prev) / tau}))

    Features are the inputs of the last layer: in the paper, those that a projection head puts out.
    The other two models are constant, in evaluation mode, on the same augmented inputs.

    Equals FedAvg when ``mu == 0``, and in the first round.

    Args:
      task: a model with ``features`` and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      mu: weight of the contrast, >= 0; the paper uses 5 for CIFAR-10, else 1.
      tau: its temperature, > 0; the paper uses 0.5.
      newcomers: what those who were in no cohort contrast with: nothing ("skip"), or a random model
        of their own, after the first round ("random", as in the authors' code).
      weighting: whether clients vote by their examples or all alike.

    Raises:
      ValueError: if a number is out of its range, a choice is unknown, or the
        task has no ``features_and_logits``.

    Departs from the paper: nothing known; there, all clients are in every round. The authors' code
    can contrast with several old models.
    Source: Li, He, Song, CVPR 2021, arXiv:2103.16257.
    """
    check_choice("newcomers", newcomers, Newcomers)
    both, change = in_one_pass(task, "MOON"), local_change(fit, weighting)

    def client_update(
        key: Key, received: Variables, past: Past, data: Data, round: Round
    ) -> tuple[Upload, Past]:
        known = past.known if newcomers == "skip" else round.number > 0

        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            seen = task.augment(key, batch.x)
            features, logits, stats = both(model, batch.x, key)
            others = task.features(received, seen), task.features(past.model, seen)
            contrast = losses.batch_mean(losses.model_contrastive(features, *others, tau), batch)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            return supervised + jnp.where(known, mu * contrast, 0), stats

        upload, fitted = change(key, received, data, loss, round)
        return upload, Past(fitted.model, jnp.bool_(True))

    def client_init(key: Key, server: Any) -> Past:
        return Past(task.init(key) if newcomers == "random" else server.model, jnp.bool_(False))

    base = fedavg(task, fit, weighting=weighting, **options)
    return base._replace(client_init=client_init, client_update=client_update)
