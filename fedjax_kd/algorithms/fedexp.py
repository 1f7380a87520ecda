"""FedExP: a server step that grows where clients disagree."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, Variables, mean
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

ExpVariant = Literal["paper", "code"]


class MeasuredChange(NamedTuple):
    """A client's change, and the squared norm of its parameters."""

    change: Any
    sq_norm: Any


class TwoIterates(NamedTuple):
    """The server, and the parameters that it had a round before."""

    base: GlobalModel
    before: Any


@extends(fedavg, fixes=["server_lr", "server_opt", "weighting"])
def fedexp(
    task: Task, fit: Fit, *, eps: Scalar = 1e-3, variant: ExpVariant = "paper", **options: Any
) -> Algorithm:
    """FedExP: the server's step is found by extrapolation (Jhunjhunwala et al., 2023).

    Against FedAvg: the server's learning rate; predictions are of the last two models' mean.
    Down: the model. Up: its change, and a number. Keeps: nothing.

        eta = max(1, mean(||Delta_k||^2) / (2 (||mean(Delta_k)||^2 + eps)))
        w = w + eta * mean(Delta_k)

    Equals FedAvg when ``eps`` is large, up to the mean of two models in predictions.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      eps: bounds the step, > 0; the paper uses 0.001 and, on EMNIST, 0.1.
      variant: "paper", or "code": clients vote by their examples, and ``eps`` counts once a client.

    Raises:
      ValueError: if ``variant`` is unknown.

    Departs from the paper: ``eps`` is not decayed from round to round, as the authors' code does.
    Source: Jhunjhunwala, Wang, Joshi, ICLR 2023, arXiv:2301.09604.
    """
    check_choice("variant", variant, ExpVariant)
    by_examples = variant == "code"
    base = fedavg(task, fit, weighting="examples" if by_examples else "uniform", **options)

    def server_init(key: Key) -> TwoIterates:
        server = base.server_init(key)
        return TwoIterates(server, server.model.params)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = base.client_update(key, received, client, data, round)
        message = MeasuredChange(upload.message, tree.sq_norm(upload.message.params))
        return upload._replace(message=message), client

    def server_update(
        key: Key, server: TwoIterates, update: MeasuredChange, round: Round
    ) -> TwoIterates:
        once = eps * round.present.sum() if by_examples else eps
        agreed = tree.sq_norm(update.change.params)
        agreed += jnp.asarray(once, agreed.dtype)
        eta = jnp.maximum(1.0, 0.5 * update.sq_norm / agreed)
        delta = update.change._replace(params=tree.scale(eta, update.change.params))
        moved = base.server_update(key, server.base, delta, round)
        return TwoIterates(moved, server.base.model.params)

    def predict(server: TwoIterates, client: Client, x: Any) -> Array:
        model = server.base.model
        middle = tree.scale(0.5, tree.add(model.params, server.before))
        return task.apply(model._replace(params=middle), x)[0]

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: server.base.model,
        client_update=client_update,
        aggregate=MeasuredChange(mean, mean),
        server_update=server_update,
        predict=predict,
    )
