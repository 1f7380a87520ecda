"""MimeLite: FedAvg whose clients take the steps of an optimiser of the server."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.global_optimiser import advanced, frozen, with_momentum
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, mean
from fedjax_kd.local import Fit, Optimiser, Weighting, local_change
from fedjax_kd.losses.objectives import whole_gradient
from fedjax_kd.options import extends
from fedjax_kd.task import Task
from fedjax_kd.wrappers.privacy import clipped_to


class Optimised(NamedTuple):
    """A server or a model, and the state of the global optimiser."""

    base: Any
    opt: optax.OptState


class ChangeAndGradient(NamedTuple):
    """The change of a model, and the gradient by parameters before it; or how both are reduced."""

    change: Any
    gradient: Any


@extends(fedavg, fixes=["objective", "server_opt"], fixes_local=["client_opt", "client_momentum"])
def mimelite(
    task: Task,
    fit: Fit,
    *,
    base_opt: str | Optimiser = "sgd",
    momentum: Scalar = 0.9,
    clip_change: Scalar | None = None,
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """MimeLite: local steps by a global, frozen optimiser (Karimireddy et al., 2021).

    Against FedAvg: the local optimiser, whose state s is the server's; a pass over all examples.
    Down: the model and s. Up: the model's change, and a gradient. Keeps: nothing.

        y = y - U(grad f_k(y); s)                   local steps from y = w, s as it is
        w = w + server_lr * mean(y - w);  s = V(mean(grad f_k(w)); s)

    where U is the step of the optimiser, V its next state, and the gradients of V are those of all
    examples at the model that was received.

    Equals FedAvg when ``base_opt == "sgd"`` and ``momentum == 0``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      base_opt: the optimiser, the name of one of optax's; in Python also a function of the learning
        rate.
      momentum: its heavy-ball momentum, in [0, 1), which comes before ``base_opt``.
      clip_change: largest norm of the change of a client's parameters, > 0; none if not given.
      weighting: how clients vote on the model and on the gradient.

    Raises:
      ValueError: if a choice is unknown, or ``fit`` has another optimiser.
      TypeError: if ``base_opt`` is no function of the learning rate.

    Departs from the paper: optimisers are optax's. Momentum is a sum, so that ``client_lr`` is
    1 - momentum times the paper's; U of Adam has its second moment and bias correction of one
    gradient more, as FedJAX has it. Weight decay is no part of V.
    Source: Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, NeurIPS 2021, arXiv:2008.03606.
    """
    opt = with_momentum(base_opt, momentum)
    fit.but(client_opt=opt)  # a mistake is told here, and not inside a round
    base = fedavg(task, fit, weighting=weighting, **options)

    def server_init(key: Key) -> Optimised:
        server = base.server_init(key)
        return Optimised(server, opt(1.0).init(server.model.params))

    def client_update(
        key: Key, received: Optimised, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        change_by = local_change(fit.but(client_opt=frozen(opt, received.opt)), weighting)
        upload, _ = change_by(key, received.base, data, task.loss, round)
        change, last = upload.message, jax.random.fold_in(key, 1)
        if clip_change is not None:
            change = change._replace(params=clipped_to(change.params, clip_change))
        _, _, slope = whole_gradient(task.loss, received.base, data, last)
        return upload._replace(message=ChangeAndGradient(change, slope)), client

    def server_update(
        key: Key, server: Optimised, update: ChangeAndGradient, round: Round
    ) -> Optimised:
        moved = base.server_update(key, server.base, update.change, round)
        state = advanced(opt, server.opt, update.gradient, server.base.model.params)
        return Optimised(moved, state)

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: Optimised(server.base.model, server.opt),
        client_update=client_update,
        aggregate=ChangeAndGradient(mean, mean),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
    )
