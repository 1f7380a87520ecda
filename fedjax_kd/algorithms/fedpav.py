"""FedPAV: FedPer for re-identification, with distillation and votes by cosine distance."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms._partial import Shared
from fedjax_kd.algorithms.fedper import fedper
from fedjax_kd.components import feature_distillation as features
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, Variables, stack
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedper)
def fedpav(
    task: Task,
    fit: Fit,
    *,
    weighting: features.FeatureVotes = "examples",
    distil_every: int = 0,
    distil_steps: int = 50,
    distil_lr: Scalar = 5e-4,
    distil_batch: int = 32,
    normalise: bool = True,
    predicts: features.Predicts = "logits",
    **options: Any,
) -> Algorithm:
    """FedPAV: each client's classifier of identities stays with it (Zhuang et al., 2020).

    Against FedPer: the server may distil features; clients may vote by how far outputs have moved.
    Down: the body, which is what ``features`` uses. Up: its change. Keeps: the head.

        a_k = n_k; or mean_x 1 - cos(f(x; w, head_k), f(x; w_k, new head_k)) on one local batch
        w = w + server_lr * sum_k a_k (w_k - w) / sum_k a_k
        w = w - distil_lr grad mean_x (phi(x; w) - mean_k phi(x; w_k) / |phi(x; w_k)|)^2

    the last ``distil_steps`` times on public inputs, after every ``distil_every`` rounds; phi are
    the features. Where no output has moved, all votes are 0 and the body stays as it is.

    Equals FedAvg when nothing is personal, ``distil_every == 0`` and nobody votes by distance.

    Args:
      task: a model with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: whether clients vote by their examples, alike, or by the "distance".
      distil_every: rounds between two distillations, which need all uploads, >= 0; 0 is never.
      distil_steps: of SGD in each, >= 0; the paper passes once over its inputs.
      distil_lr: their learning rate, >= 0; the authors' code has a hundredth of the clients'.
      distil_batch: inputs in a step, >= 1.
      normalise: whether teachers' features have length 1 before they are averaged.
      predicts: what is evaluated: "logits", or "features", of which no loss is told.

    Raises:
      MissingError: if it is to distil, but there are no public inputs.

    Departs from the paper: distances are of logits, as in the authors' code, in evaluation mode, as
    are teachers; statistics of normalisation are averaged, where the code keeps one client's.
    Source: Zhuang, Wen, Zhang, Gan, Yin, Zhou, Zhang, Yi, ACM MM 2020, arXiv:2008.11560.
    """
    check_choice("weighting", weighting, features.FeatureVotes)
    votes = "uniform" if weighting == "distance" else weighting
    base = fedper(task, fit, weighting=votes, **options)
    how = features.FeatureDistillation(distil_steps, distil_lr, distil_batch, normalise, "FedPAV")

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        upload, new = base.client_update(key, received, own, data, round)
        models = combine(received, own), combine(tree.add(received, upload.message), new)
        batch = features.some_of(jax.random.fold_in(key, 1), data, fit.batch_size)
        return upload._replace(weight=features.output_distance(task, models, batch)), new

    def server_update(key: Key, server: Shared, update: Variables, round: Round) -> Shared:
        after = base.server_update(key, server, tree.weighted_mean(update, round.votes), round)
        bodies = jax.vmap(tree.add, (None, 0))(server.base.model, update)

        def seen(body: Variables, x: PyTree) -> Array:
            return task.features(combine(body, server.initial), x)

        def taught() -> Variables:
            return features.distil_features(how, key, seen, (after.base.model, bodies), round)

        due = (round.number + 1) % distil_every == 0
        model = jax.lax.cond(due, taught, lambda: after.base.model)
        return after._replace(base=after.base._replace(model=model))

    def described(server: Shared, own: Variables, x: PyTree) -> Array:
        return task.features(combine(server.base.model, own), x)

    made = base._replace(client_update=client_update) if weighting == "distance" else base
    if distil_every:
        made = made._replace(server_update=server_update, aggregate=stack)
    return features.predicting(made, predicts, described)
