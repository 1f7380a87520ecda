"""MimeLite: FedAvg whose clients take the steps of an optimiser of the server."""

from __future__ import annotations

from typing import Any

import jax

from fedjax_kd.algorithms._optimised import ChangeAndGradient, Optimised, optimised_fedavg
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import whole_gradient
from fedjax_kd.options import extends
from fedjax_kd.task import Task
from fedjax_kd.wrappers.privacy import clipped_to


@extends(optimised_fedavg)
def mimelite(
    task: Task, fit: Fit, *, clip_change: Scalar | None = None, **options: Any
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
      clip_change: largest norm of the change of a client's parameters, > 0; none if not given.

    Raises:
      ValueError: if a choice is unknown, or ``fit`` has another optimiser.
      TypeError: if ``base_opt`` is no function of the learning rate.

    Departs from the paper: optimisers are optax's. Momentum is a sum, so that ``client_lr`` is
    1 - momentum times the paper's; Adam's second moment and bias correction have seen the gradient
    of the step, too, as in FedJAX. Weight decay is no part of V.
    Source: Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, NeurIPS 2021, arXiv:2008.03606.
    """
    base, change_by = optimised_fedavg(task, fit, **options)

    def client_update(
        key: Key, received: Optimised, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, last = change_by(key, received, data, task.loss, round), jax.random.fold_in(key, 1)
        change = upload.message
        if clip_change is not None:
            change = change._replace(params=clipped_to(change.params, clip_change))
        _, _, slope = whole_gradient(task.loss, received.base, data, last)
        return upload._replace(message=ChangeAndGradient(change, slope)), client

    return base._replace(client_update=client_update)
