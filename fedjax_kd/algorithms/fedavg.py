"""FedAvg: the one file that shows a whole round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import (
    Algorithm,
    Batch,
    Client,
    Data,
    Key,
    PyTree,
    Round,
    Scalar,
    Upload,
    Variables,
    mean,
)
from fedjax_kd.local import Fit, Optimiser
from fedjax_kd.task import Task

ReceivedObjective = Callable[[Variables, Variables, Batch, Key], tuple[Array, PyTree]]
"""(received model, model, batch, key) -> (loss, new stats)"""


class Server(NamedTuple):
    """The global model and the server optimiser's state."""

    model: Variables
    opt: Any


def fedavg(
    task: Task,
    fit: Fit,
    *,
    server_lr: Scalar = 1.0,
    weighting: Literal["examples", "uniform"] = "examples",
    server_opt: Optimiser = optax.sgd,
    objective: ReceivedObjective | None = None,
) -> Algorithm:
    """FedAvg: clients train the received model, the server averages (McMahan et al., 2017).

    Against FedAvg: nothing, this is it.
    Down: the model, params and stats. Up: its change, of the same shapes. Keeps: nothing.

        Delta_k = fit(w, client k) - w
        w = w + server_lr * sum_k n_k Delta_k / sum_k n_k

    BatchNorm's statistics are averaged as values; the server optimiser never sees them.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      server_lr: the server's learning rate, > 0; 1 puts the plain average in place of the model.
      weighting: whether a client votes by its number of examples or all clients vote alike.
      server_opt: a learning rate to an optax optimiser of the server.
      objective: another local loss; by default the task's.

    Raises:
      ValueError: if ``weighting`` is unknown.

    Departs from the paper: nothing known.
    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, AISTATS 2017, arXiv:1602.05629.
    """
    check_weighting(weighting)
    opt = server_opt(server_lr)

    def local_objective(received: Variables) -> Callable:
        if objective is None:
            return task.loss
        return lambda model, batch, key: objective(received, model, batch, key)

    def server_init(key: Key) -> Server:
        model = task.init(key)
        return Server(model, opt.init(model.params))

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        fitted = fit(key, received, data, local_objective(received), round)
        weight = data.size if weighting == "examples" else jnp.ones(())
        return Upload(tree.sub(fitted.model, received), weight, {"loss": fitted.loss}), client

    def server_update(key: Key, server: Server, delta: Variables, round: Round) -> Server:
        step, state = opt.update(tree.neg(delta.params), server.opt, server.model.params)
        params = optax.apply_updates(server.model.params, step)
        return Server(Variables(params, tree.add(server.model.stats, delta.stats)), state)

    return Algorithm(
        server_init=server_init,
        client_init=lambda key, server: (),
        broadcast=lambda server, client_id: server.model,
        client_update=client_update,
        aggregate=mean,
        server_update=server_update,
        predict=lambda server, client, x: task.apply(server.model, x)[0],
    )


def check_weighting(weighting: str) -> None:
    """Raises ValueError unless clients vote by ``examples`` or ``uniform``."""
    if weighting not in ("examples", "uniform"):
        raise ValueError(
            f"weighting is {weighting!r}, but must be 'examples' (a client votes by its number of "
            "examples) or 'uniform' (all clients vote alike)."
        )
