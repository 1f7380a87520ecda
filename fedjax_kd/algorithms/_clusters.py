"""FedAvg of several models, of which each client trains the one that suits it."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.clusters import (
    Clustered,
    ClusterUpload,
    check_starts,
    cluster_of,
    model_of,
    several,
    uploaded,
)
from fedjax_kd.components.model_parts import Part, partition
from fedjax_kd.core import Algorithm, Client, Data, Key, PyTree, Round, Upload
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task

Divisor = Literal["members", "everyone"]


@extends(fedavg)
def fedavg_of_clusters(
    task: Task, fit: Fit, part: Part, clusters: int, divisor: Divisor, **options: Any
) -> Algorithm:
    """FedAvg whose clients take the model with the least mean loss on their training examples.

    Down: what all models have in common, and M parts. Up: one change, a number. Keeps: nothing.

    A cluster that no client chose stays as it is, and so does its optimiser. Clients choose again
    before they are evaluated; whoever has no examples gets the first cluster.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      part: which values each cluster has of its own, from `fedjax_kd.components.model_parts`.
      clusters: number of models, M.
      divisor: over whose votes the changes of a cluster are averaged, its members' or everyone's.
    """
    check_starts(task, part, clusters)
    base = fedavg(task, fit, **options)

    def averaged(which: int) -> Algorithm:
        return fedavg(
            task._replace(init=lambda key: partition(part, task.init(key))[which]), fit, **options
        )

    common, own = averaged(0), averaged(1)

    def server_init(key: Key) -> Clustered:
        return Clustered(common.server_init(key), several(own.server_init, clusters)(key))

    def models(server: Clustered) -> Clustered:
        return Clustered(server.common.model, server.own.model)

    def client_update(
        key: Key, received: Clustered, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        number = cluster_of(task, received, data)
        upload, _ = base.client_update(key, model_of(received, number), (), data, round)
        return uploaded(upload, part, number, clusters), client

    def server_update(
        key: Key, server: Clustered, update: ClusterUpload, round: Round
    ) -> Clustered:
        def step(cluster: GlobalModel, change: PyTree, share: Array) -> GlobalModel:
            votes = jnp.where(share > 0, share, 1) if divisor == "members" else 1
            moved = base.server_update(key, cluster, tree.scale(1 / votes, change), round)
            return tree.where(share > 0, moved, cluster)

        moved = base.server_update(key, server.common, update.common, round)
        return Clustered(moved, jax.vmap(step)(server.own, update.own, update.chosen))

    def predict(server: Clustered, client: Client, x: PyTree) -> Array:
        number = jnp.int32(0) if isinstance(client, tuple) else client
        return task.apply(model_of(models(server), number), x)[0]

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: models(server),
        client_update=client_update,
        server_update=server_update,
        predict=predict,
        personalise=lambda key, server, client, data: cluster_of(task, models(server), data),
        judged_by="clients",
        traits=lambda server, client: {"cluster": jnp.arange(clusters, dtype=jnp.int32) == client},
    )
