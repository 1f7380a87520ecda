"""pFedSim: clients' bodies are mixed by how alike their classifiers are."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.components.similarity import (
    check_population,
    class_weights,
    last_model,
    mixed_model,
    no_models,
    own_share,
    with_models,
)
from fedjax_kd.core import Algorithm, Data, Key, Plan, PyTree, Round, Upload, Variables, stack
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class WithClients(NamedTuple):
    """The global model, and the clients' own."""

    base: Any
    clients: Any


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
    base, (part, weights) = fedavg(task, fit, **options), class_weights(task)

    def server_init(key: Key) -> WithClients:
        server = base.server_init(key)
        return WithClients(server, no_models(server.model, population))

    def broadcast(server: WithClients, number: Array, round: Round) -> Variables:
        start = server.base.model
        mixed = partial(mixed_model, server.clients, part, number, start)
        return jax.lax.cond(round.number < warmup, lambda: start, mixed)

    def client_update(
        key: Key, received: Variables, number: Array, data: Data, round: Round
    ) -> tuple[Upload, Array]:
        upload, _ = base.client_update(key, received, (), data, round)
        return upload, jnp.asarray(data.client, jnp.int32)

    def server_update(key: Key, server: WithClients, update: PyTree, round: Round) -> WithClients:
        check_population(population, round)

        def averaged() -> WithClients:
            change = tree.weighted_mean(update, round.votes)
            return server._replace(base=base.server_update(key, server.base, change, round))

        def stored() -> WithClients:
            received = jax.vmap(lambda number: broadcast(server, number, round))(round.cohort)
            sent = jax.vmap(tree.add)(received, update)
            return server._replace(clients=with_models(server.clients, weights, sent, round))

        return jax.lax.cond(round.number < warmup, averaged, stored)

    def predict(server: WithClients, number: Array, x: PyTree) -> Array:
        return task.apply(last_model(server.clients, number, server.base.model), x)[0]

    def edge(plan: Plan) -> str | None:
        said = f"warmup is {warmup} and num_rounds {plan.num_rounds}, so that this is FedAvg"
        better = f"take {plan.num_rounds // 2}, half of the rounds, as in the paper"
        return f"{said}: {better}." if plan.num_rounds <= warmup else None

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: jnp.int32(-1),
        broadcast=broadcast,
        client_update=client_update,
        aggregate=stack,
        server_update=server_update,
        predict=predict,
        judged_by="clients",
        check=checked_too(base, edge),
        traits=lambda server, number: {"own_share": own_share(server.clients, number)},
    )
