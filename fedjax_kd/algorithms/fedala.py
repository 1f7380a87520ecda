"""FedALA: clients merge the received model into their own, by weights that they learn."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components import local_aggregation as aggregation
from fedjax_kd.components.model_parts import everything, nonempty_head, partition
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

MergedPart = Literal["head", "all"]


@extends(fedavg, fixes=["objective"])
def fedala(
    task: Task,
    fit: Fit,
    *,
    eta: Scalar = 1.0,
    share: Scalar = 0.8,
    merged: MergedPart = "head",
    threshold: Scalar = 0.1,
    window: int = 10,
    most_epochs: int = 50,
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedALA: a client learns how much of the received model it takes (Zhang et al., 2023).

    Against FedAvg: what local training starts from, which costs a pass over a client's examples.
    Down: the model. Up: its change. Keeps: the client's model theta_k, its weights W_k of the
    merged part, which start at 1, and a boolean.

        lower = received; top: theta = theta_k + (w - theta_k) * W_k
        W_k = clip(W_k - eta * grad loss(theta) * (w - theta_k), 0, 1)     on each batch
        theta_k = fit(theta, client k), which is sent

    The first time that a client's model is not the received one, epochs over the examples go on
    until the standard deviation of the last ``window`` losses is below ``threshold``; later there
    is one epoch. Losses are those of the last batch of an epoch.

    Equals FedAvg when ``eta == 0``.

    Args:
      task: a model with ``features`` that knows the shape of its examples, for the head.
      fit: local training; batches of the weights have its ``batch_size``, or 64 examples.
      eta: learning rate of the weights, >= 0.
      share: of a client's examples, drawn once a round, that weights are learnt on, in (0, 1];
        at least one.
      merged: the part in which weights are learnt: the last layer ("head"), or "all".
      threshold: of the losses' deviation, >= 0.
      window: how many losses that is of, >= 1.
      most_epochs: in which weights converge at the latest, >= 1.
      weighting: whether clients vote by their examples or all alike.

    Raises:
      TypeError: if the module has no ``features`` and the head is merged.
      ValueError: if ``merged`` is unknown, a number is out of its range, or ``features`` uses the
        whole model.

    Departs from the paper: epochs are bounded, statistics of normalisation are those received, and
    the examples are a random share, not a slice. The authors' code merges nothing where the first
    array of the client's model is the received one.
    Source: Zhang, Hua, Wang, Song, Xue, Ma, Guan, AAAI 2023, arXiv:2212.01197.
    """
    check_choice("merged", merged, MergedPart)
    size = getattr(fit, "batch_size", 0)
    how = aggregation.Learning(eta, share, threshold, window, most_epochs, size)
    part = (everything if merged == "all" else nonempty_head)(task).params
    learn = aggregation.weights_learner(how, part, task.loss)
    base, vote = fedavg(task, fit, weighting=weighting, **options), voting(weighting)

    def client_init(key: Key, server: GlobalModel) -> aggregation.Merged:
        weights = jax.tree.map(jnp.ones_like, partition(part, server.model.params)[1])
        return aggregation.Merged(server.model, weights, jnp.bool_(False))

    def client_update(
        key: Key, received: Variables, client: aggregation.Merged, data: Data, round: Round
    ) -> tuple[Upload, aggregation.Merged]:
        weights, started = learn(jax.random.fold_in(key, 1), received, client, data)
        params = aggregation.blend(part, received.params, client.model.params, weights)
        fitted = fit(key, Variables(params, received.stats), data, task.loss, round)
        upload = Upload(tree.sub(fitted.model, received), vote(data), fitted.metrics)
        return upload, aggregation.Merged(fitted.model, weights, started)

    return base._replace(
        client_init=client_init,
        client_update=client_update,
        predict=lambda server, client, x: task.apply(client.model, x)[0],
        judged_by="clients",
        traits=lambda server, client: {"weight": aggregation.mean_weight(client)},
    )
