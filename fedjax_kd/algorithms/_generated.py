"""Clients that train models which a hypernetwork makes for them; it learns from their changes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.hypernet import HypernetLearner, HypernetState
from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.core import (
    Algorithm,
    Data,
    Key,
    PyTree,
    Round,
    Upload,
    Variables,
    stack,
    uniform_mean,
)
from fedjax_kd.local import Fit
from fedjax_kd.task import Task


class HypernetServer(NamedTuple):
    """The hypernetwork, the models' mean statistics, and the other part of a newcomer."""

    learning: HypernetState
    stats: PyTree
    initial: Variables


class OwnPart(NamedTuple):
    """The part of a model that a client keeps, and its number; -1 before its first cohort."""

    model: Variables
    number: Int[Array, ""]


def fedavg_of_made_models(task: Task, fit: Fit, part: Part, net: HypernetLearner) -> Algorithm:
    """FedAvg whose server makes a model for each client, except the part that clients keep.

    Down: the model without the part. Up: its change. Keeps: the part, and the client's number.

    A client that was in no cohort yet is evaluated with the model of the mean embedding, and so is
    a newcomer; the part it has is that of the initial model. Statistics are averaged as values.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      part: which values stay at home, from `fedjax_kd.components.model_parts`.
      net: makes the parameters of the rest, from `fedjax_kd.components.hypernet.hypernet_learner`.
    """
    base = fedavg(task, fit)

    def server_init(key: Key) -> HypernetServer:
        model, own = partition(part, task.init(key))
        return HypernetServer(net.init(key, model.params), model.stats, own)

    def made(server: HypernetServer, number: Array) -> Variables:
        return Variables(net.make(server.learning, number), server.stats)

    def client_update(
        key: Key, received: Variables, own: OwnPart, data: Data, round: Round
    ) -> tuple[Upload, OwnPart]:
        model = combine(received, own.model)
        upload, _ = base.client_update(key, model, (), data, round)
        shared, change = partition(part, upload.message)
        kept = OwnPart(tree.add(own.model, change), jnp.asarray(data.client, jnp.int32))
        return upload._replace(message=shared), kept

    def server_update(
        key: Key, server: HypernetServer, update: Variables, round: Round
    ) -> HypernetServer:
        learning = net.learn(server.learning, update.params, round)
        return server._replace(learning=learning, stats=tree.add(server.stats, update.stats))

    def predict(server: HypernetServer, own: OwnPart, x: PyTree) -> Array:
        return task.apply(combine(made(server, own.number), own.model), x)[0]

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: OwnPart(server.initial, jnp.int32(-1)),
        broadcast=lambda server, number, round: made(server, number),
        client_update=client_update,
        aggregate=Variables(stack, uniform_mean),
        server_update=server_update,
        predict=predict,
        judged_by="clients",
    )
