"""pFedSim: clients' bodies are mixed by how alike their classifiers are."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.components.similarity import (
    WithModels,
    class_weights,
    last_model,
    mixed_model,
    own_share,
    warmup_is_all,
    with_models,
    without_models,
)
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Upload, Variables, stack
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, needs_classes="pFedSim compares the weights of classes")
def pfedsim(
    task: Task, fit: Fit, *, population: int, warmup: int = 50, **options: Any
) -> Algorithm:
    """pFedSim: after rounds of FedAvg, who classifies alike shares a body (Tan et al., 2023).

    Against FedAvg: after the warm-up every client has a model, which the server stores.
    Down: a model, the client's own. Up: its change. Keeps: its number; the server keeps a model for
    each of the C clients, and similarities [C, C].

        s_ij = max(0, mean over classes of cos(weights of the class in head_i, in head_j))
        a_ij = -log(1 - s_ij) / sum_j -log(1 - s_ij)                 s_ii = 0.9999
        body_k, head_k = fit((sum_j a_kj body_j, head_k), client k)

    Equals FedAvg when ``warmup`` is at least the number of rounds.

    After the warm-up the global model rests: clients start from it, and whoever was in no cohort
    since then is evaluated with it, the others with their model as they sent it last.

    Args:
      task: a classifier with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`.
      population: clients C, >= 1.
      warmup: rounds of FedAvg, >= 0; half of all in the paper.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if a number is out of its range, the task does not know the shape of its examples,
        its last layer is not dense, or ``population`` is not that of the federation.

    Departs from the paper: similarities are at most 0.9999, also of equal classifiers, whose share
    would be infinite. As in the authors' code they are of the weights, without biases.
    Source: Tan, Liu, Wang, Yan, Liu, 2023, arXiv:2305.15706.
    """
    base, (head, weights) = fedavg(task, fit, **options), class_weights(task)

    def broadcast(server: WithModels, number: Array, round: Round) -> Variables:
        mixed = partial(mixed_model, server, head, number)
        return jax.lax.cond(round.number < warmup, lambda: server.base.model, mixed)

    def client_update(
        key: Key, received: Variables, number: Array, data: Data, round: Round
    ) -> tuple[Upload, Array]:
        upload, _ = base.client_update(key, received, (), data, round)
        return upload, jnp.asarray(data.client, jnp.int32)

    def server_update(key: Key, server: WithModels, update: PyTree, round: Round) -> WithModels:
        def averaged() -> WithModels:
            change = tree.weighted_mean(update, round.votes)
            return server._replace(base=base.server_update(key, server.base, change, round))

        def stored() -> WithModels:
            received = jax.vmap(lambda number: broadcast(server, number, round))(round.cohort)
            return with_models(server, weights, jax.vmap(tree.add)(received, update), round)

        return jax.lax.cond(round.number < warmup, averaged, stored)

    return base._replace(
        server_init=lambda key: without_models(base.server_init(key), population),
        client_init=lambda key, server: jnp.int32(-1),
        broadcast=broadcast,
        client_update=client_update,
        aggregate=stack,
        server_update=server_update,
        predict=lambda server, number, x: task.apply(last_model(server, number), x)[0],
        judged_by="clients",
        check=checked_too(base, warmup_is_all(warmup)),
        traits=lambda server, number: {"own_share": own_share(server, number)},
    )
