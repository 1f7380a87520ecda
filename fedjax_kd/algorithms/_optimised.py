"""FedAvg whose clients take the steps of an optimiser of the server: MimeLite and Mime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.global_optimiser import advanced, frozen, with_momentum
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, mean
from fedjax_kd.local import Fit, Optimiser, Weighting, local_change
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class Optimised(NamedTuple):
    """A server or a model, and the state of the global optimiser."""

    base: Any
    opt: optax.OptState


class ChangeAndGradient(NamedTuple):
    """The change of a model, and a gradient by its parameters; or how both are reduced."""

    change: Any
    gradient: Any


LocalChange = Callable[[Key, Optimised, Data, Objective, Round], Upload]
"""(key, received, data, objective, round) -> the change of a client's model"""


@extends(fedavg, fixes=["objective", "server_opt"], fixes_local=["client_opt", "client_momentum"])
def optimised_fedavg(
    task: Task,
    fit: Fit,
    *,
    base_opt: str | Optimiser = "sgd",
    momentum: Scalar = 0.9,
    weighting: Weighting = "uniform",
    **options: Any,
) -> tuple[Algorithm, LocalChange]:
    """FedAvg with another optimiser, and its local training; clients are to send gradients, too.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      base_opt: the global optimiser, by the name that optax has for it; in Python also a function
        of the learning rate.
      momentum: its heavy-ball momentum, in [0, 1), which comes before ``base_opt``.
      weighting: how clients vote on the model and on the gradient.

    Returns:
      An algorithm whose ``client_update`` is missing, and what that is made of.

    Raises:
      ValueError: if a choice is unknown, or ``fit`` has another optimiser.
      TypeError: if ``base_opt`` is no function of the learning rate.
    """
    opt = with_momentum(base_opt, momentum)
    fit.but(client_opt=opt)  # a mistake is told here, and not inside a round
    base = fedavg(task, fit, weighting=weighting, **options)

    def change(
        key: Key, received: Optimised, data: Data, objective: Objective, round: Round
    ) -> Upload:
        steps = fit.but(client_opt=frozen(opt, received.opt))
        return local_change(steps, weighting)(key, received.base, data, objective, round)[0]

    def server_init(key: Key) -> Optimised:
        server = base.server_init(key)
        return Optimised(server, opt(1.0).init(server.model.params))

    def server_update(
        key: Key, server: Optimised, update: ChangeAndGradient, round: Round
    ) -> Optimised:
        moved = base.server_update(key, server.base, update.change, round)
        state = advanced(opt, server.opt, update.gradient, server.base.model.params)
        return Optimised(moved, state)

    algorithm = base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: Optimised(server.base.model, server.opt),
        aggregate=ChangeAndGradient(mean, mean),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
    )
    return algorithm, change
