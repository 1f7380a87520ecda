"""FedGEN: FedAvg with a generator of features, trained on the server by the clients' heads."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.class_statistics import label_counts
from fedjax_kd.components.generator import feature_generator, lesson_of, with_generated
from fedjax_kd.components.model_parts import combine, head_types, nonempty_head, partition
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Upload, mean, stack
from fedjax_kd.local import Fit, local_change
from fedjax_kd.options import check_choice, extends, options_of
from fedjax_kd.task import Task

Labels = Literal["counts", "held"]


class Taught(NamedTuple):
    """The model, a generator, and the shares of the classes among generated features."""

    base: Any
    generator: Any
    shares: Float[Array, " L"]


@extends(fedavg, with_generated, feature_generator, fixes=["objective"])
def fedgen(task: Task, fit: Fit, *, labels: Labels = "counts", **options: Any) -> Algorithm:
    """FedGEN: generated features regularise the clients, without any data (Zhu et al., 2021).

    Against FedAvg: the local loss; the server trains a generator G, by the heads of the cohort.
    Down: the model, G's, and shares p of the classes [L]. Up: the change of the model, label counts
    [L]; the server sees every head, but the mean body only. Keeps: nothing.

        G = argmin E_{y ~ p} CE(mean_k head_k(G(y)), y) + diversity * losses.diversity(noise, G(y))
        loss_k(w) + alpha * E_{y ~ p} CE(head(G(y)), y)

    Equals FedAvg when ``alpha`` and ``beta`` are 0, and in the first round: G is trained after it.

    Args:
      task: a classifier with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`.
      labels: p is the share of the examples of the last cohort ("counts", the paper), or the same
        for all labels that it holds ("held", the authors' code).

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if a number is out of its range, a choice is unknown, or the task has no head.

    Departs from the paper: in the first round nothing is generated, as in the authors' code, and
    clients vote by their examples. That code counts examples by minibatch, from 1 on, and lowers
    the generator's learning rate; its other ways are options: all but ``alpha`` and ``diversity``.
    Source: Zhu, Hong, Zhou, ICML 2021, arXiv:2105.10056.
    """
    check_choice("labels", labels, Labels)
    part, (width, classes) = nonempty_head(task), (t.shape[-1] for t in head_types(task))
    own, others = options_of(feature_generator, options)
    generator = feature_generator(width, classes, **own)
    own, others = options_of(with_generated, others)
    objective = with_generated(task, generator, **own)
    base = fedavg(task, fit, **others)
    change = local_change(fit, others.get("weighting", "examples"))

    def server_init(key: Key) -> Taught:
        shares, own = jnp.zeros(classes, jnp.float32), jax.random.fold_in(key, 1)
        return Taught(base.server_init(key), generator.init(own), shares)

    def client_update(
        key: Key, received: Taught, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        loss = objective(received.generator, received.shares, round)
        upload, _ = change(key, received.base, data, loss, round)
        message = (*partition(part, upload.message), label_counts(data, classes))
        return upload._replace(message=message), client

    def server_update(key: Key, server: Taught, update: tuple, round: Round) -> Taught:
        body, heads, counts = update
        lesson = lesson_of(task, server.base.model, heads, counts, round.present)
        held = counts.sum(0).clip(max=None if labels == "counts" else 1)
        shares = held / jnp.maximum(held.sum(), 1)
        learner = generator.train(jax.random.fold_in(key, 1), server.generator, lesson, shares)
        whole = combine(body, tree.weighted_mean(heads, round.votes))
        return Taught(base.server_update(key, server.base, whole, round), learner, shares)

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: Taught(
            server.base.model, server.generator.model, server.shares
        ),
        client_update=client_update,
        aggregate=(mean, stack, stack),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, (), x),
        needs_classes="FedGEN makes examples of classes",
    )
