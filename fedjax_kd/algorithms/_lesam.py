"""Any method whose clients take gradients behind the way that the global model went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_kd import tree
from fedjax_kd.components.model_parts import model_in
from fedjax_kd.components.sharpness import direction_of, shifted
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit
from fedjax_kd.task import Task


class Remembered(NamedTuple):
    """What a client keeps for the method itself, and the model that it received last."""

    own: Client
    model: Variables


def back_along_the_way(
    method: Callable[..., Algorithm], task: Task, fit: Fit, rho: Scalar, **options: Any
) -> Algorithm:
    """The method with gradients at a distance ``rho`` from the model, towards an older one.

    Args:
      method: a factory of an algorithm of task and fit.
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      rho: the distance.
      **options: of the method.
    """
    base = method(task, fit, **options)

    def client_update(
        key: Key, received: Any, client: Remembered, data: Data, round: Round
    ) -> tuple[Upload, Remembered]:
        model = model_in(received)
        back = tree.scale(rho, direction_of(tree.sub(client.model.params, model.params)))
        there = method(task._replace(loss=shifted(task.loss, back)), fit, **options)
        upload, own = there.client_update(key, received, client.own, data, round)
        return upload, Remembered(own, model)

    return base._replace(
        client_init=lambda key, server: Remembered(base.client_init(key, server), model_in(server)),
        client_update=client_update,
        predict=lambda server, client, x: base.predict(server, client.own, x),
    )
