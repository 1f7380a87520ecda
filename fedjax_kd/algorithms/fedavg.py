"""FedAvg: the one file that shows a whole round."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from fedjax_kd import tree
from fedjax_kd.components.model_checks import check_batches, model_check
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Upload, Variables, examples, mean
from fedjax_kd.local import Fit, Optimiser, Rate, Weighting, local_change, made_optimiser, rate_at
from fedjax_kd.losses.objectives import ReceivedObjective
from fedjax_kd.options import checks_options
from fedjax_kd.task import Task


class GlobalModel(NamedTuple):
    """The global model and the server optimiser's state."""

    model: Variables
    opt: Any


@checks_options
def fedavg(
    task: Task,
    fit: Fit,
    *,
    server_lr: Rate = 1.0,
    weighting: Weighting = "examples",
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
      server_lr: the server's learning rate, > 0; 1 puts the plain average in place of the model. In
        Python also a schedule ``round number -> learning rate``.
      weighting: whether a client votes by its number of examples or all clients vote alike.
      server_opt: a learning rate to an optax optimiser of the server.
      objective: received model -> another local loss; by default the task's.

    Raises:
      ValueError: if ``weighting`` is unknown, or a batch of one is to be normalised.
      TypeError: if ``server_opt`` is no function of the learning rate.

    Departs from the paper: nothing known.
    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, AISTATS 2017, arXiv:1602.05629.
    """
    check_batches(task, "batch_size", getattr(fit, "batch_size", 0))
    change = local_change(fit, weighting)
    made_optimiser("server_opt", server_opt, 1.0)

    def server_init(key: Key) -> GlobalModel:
        model = task.init(key)
        return GlobalModel(model, server_opt(rate_at(server_lr, 0)).init(model.params))

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        local_loss = task.loss if objective is None else objective(received)
        upload, _ = change(key, received, data, local_loss, round)
        return upload, client

    def server_update(key: Key, server: GlobalModel, delta: Variables, round: Round) -> GlobalModel:
        opt = server_opt(rate_at(server_lr, round.number))
        step, opt_state = opt.update(tree.neg(delta.params), server.opt, server.model.params)
        params = optax.apply_updates(server.model.params, step)
        return GlobalModel(Variables(params, tree.add(server.model.stats, delta.stats)), opt_state)

    return Algorithm(
        server_init=server_init,
        client_init=lambda key, server: (),
        broadcast=lambda server, number, round: server.model,
        client_update=client_update,
        aggregate=mean,
        server_update=server_update,
        predict=lambda server, client, x: task.apply(server.model, x)[0],
        work=getattr(fit, "steps", examples),  # a function of your own need not tell
        score=task.example_loss,
        check=model_check(task, fit),
    )
