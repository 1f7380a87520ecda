"""SCAFFOLD: FedAvg with control variates against client drift."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.corrections import corrected
from fedjax_kd.components.sharp_edges import option_two_wants_sgd, warns_of
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Upload, mean, total
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.losses.objectives import whole_gradient
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

ControlOption = Literal["I", "II"]


class Controlled(NamedTuple):
    """A server or a model with its control variate, a tree like the parameters."""

    base: Any
    control: PyTree


@extends(fedavg, fixes=["objective"])
@warns_of(option_two_wants_sgd)
def scaffold(
    task: Task,
    fit: Fit,
    *,
    option: ControlOption = "II",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """SCAFFOLD: control variates correct each client's drift (Karimireddy et al., 2020).

    Against FedAvg: a correction of every local gradient, kept by the clients and the server.
    Down: the model and the server's control c. Up: the change of both. Keeps: its control c_k.

        y = y - lr * (grad f_k(y) - c_k + c)                         local steps from y = w
        c_k' = grad f_k(w)                                           option I
        c_k' = c_k - c + (w - y) / (sum of the steps' learning rates)  option II
        w = w + server_lr * mean(y - w);  c = c + sum(c_k' - c_k) / C

    Equals FedAvg when ``c`` and all ``c_k`` are 0, so in the first round, given the same
    ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`. Option II holds for plain SGD;
        with momentum the true step is longer than the learning rates say.
      option: "I" spends a further pass over the client's data, "II" (the paper's choice) does not.
      weighting: how clients vote on the model; the control variates are summed.

    Raises:
      ValueError: if ``option`` or ``weighting`` is unknown.

    Departs from the paper: nothing known, with ``weighting="uniform"``.
    Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, arXiv:1910.06378.
    """
    check_choice("option", option, ControlOption)
    base = fedavg(task, fit, weighting=weighting, **options)
    change_by = local_change(fit, weighting)

    def server_init(key: Key) -> Controlled:
        server = base.server_init(key)
        return Controlled(server, tree.zeros_like(server.model.params))

    def client_update(
        key: Key, received: Controlled, control: PyTree, data: Data, round: Round
    ) -> tuple[Upload, PyTree]:
        drift = tree.sub(received.control, control)
        loss = corrected(task.loss, drift)
        upload, fitted = change_by(key, received.base, data, loss, round)
        if option == "I":
            _, _, new = whole_gradient(task.loss, received.base, data, jax.random.fold_in(key, 1))
        else:
            travel = jnp.where(fitted.travel == 0, 1, fitted.travel)
            new = tree.sub(tree.neg(drift), tree.scale(1 / travel, upload.message.params))
        return upload._replace(message=Controlled(upload.message, tree.sub(new, control))), new

    def server_update(key: Key, server: Controlled, update: Controlled, round: Round) -> Controlled:
        moved = base.server_update(key, server.base, update.base, round)
        change = tree.scale(1 / round.population, update.control)
        return Controlled(moved, tree.add(server.control, change))

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: tree.zeros_like(server.control),
        broadcast=lambda server, number, round: Controlled(server.base.model, server.control),
        client_update=client_update,
        aggregate=Controlled(mean, total),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, (), x),
    )
