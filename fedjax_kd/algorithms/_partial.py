"""FedAvg of one part of the model, while the other stays with the clients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.components.part_training import of_part
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class Shared(NamedTuple):
    """The server of the shared part, and the other part as a newcomer starts with it."""

    base: GlobalModel
    initial: Variables


@extends(fedavg)
def fedavg_without(task: Task, fit: Fit, part: Part, **options: Any) -> Algorithm:
    """FedAvg whose clients train the whole model, but send and receive it without ``part``.

    Down: the model without the part. Up: its change. Keeps: the part, parameters and statistics.

    All clients start with the same part, that of the initial model, and so does whoever takes no
    part in training. It never changes on the server.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      part: which values stay at home, from `fedjax_kd.components.model_parts`.
    """
    base = fedavg(
        task._replace(init=lambda key: partition(part, task.init(key))[0]), fit, **options
    )

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        upload, _ = base.client_update(key, combine(received, own), (), data, round)
        shared, change = partition(part, upload.message)
        return upload._replace(message=shared), tree.add(own, change)

    def server_update(key: Key, server: Shared, update: Variables, round: Round) -> Shared:
        return server._replace(base=base.server_update(key, server.base, update, round))

    def predict(server: Shared, own: Variables, x: PyTree) -> Array:
        # Where a client was tuned, it has a whole model of its own.
        return task.apply(combine(own, server.base.model), x)[0]

    return base._replace(
        server_init=lambda key: Shared(base.server_init(key), partition(part, task.init(key))[1]),
        client_init=lambda key, server: server.initial,
        broadcast=lambda server, number, round: server.base.model,
        client_update=client_update,
        server_update=server_update,
        predict=predict,
        judged_by="clients" if any(jax.tree.leaves(part)) else "server",
    )


class Tuning(NamedTuple):
    """How clients train before they are evaluated."""

    part: Part  # of the model; the rest stays as it is
    epochs: int  # passes over a client's own examples
    lr: Scalar | None = None  # by default that of local training in the first round


def tuned_for_evaluation(algorithm: Algorithm, task: Task, fit: Fit, how: Tuning) -> Algorithm:
    """`fedavg_without` whose clients train their model, or a part of it, before evaluation.

    Nobody keeps what was trained. Without epochs the algorithm is as it was.

    Args:
      algorithm: from `fedavg_without`.
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      how: what is trained, and how long.
    """
    if how.epochs == 0:
        return algorithm
    rate: dict[str, Any] = {} if how.lr is None else {"client_lr": how.lr}
    tune = of_part(fit.but(epochs=how.epochs, steps=None, **rate), how.part)

    def personalise(key: Key, server: Shared, own: Variables, data: Data) -> Variables:
        whole = combine(own, server.base.model)
        return tune(key, whole, data, task.loss, Round.first()).model

    return algorithm._replace(personalise=personalise, judged_by="clients")
