"""SCAFFOLD: FedAvg with control variates against client drift."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms._controls import Controlled, with_controls
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.corrections import corrected
from fedjax_kd.components.sharp_edges import option_two_wants_sgd, warns_of
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Upload, total
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.losses.objectives import whole_gradient
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

ControlOption = Literal["I", "II"]


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

    def learnt(control: PyTree, changes: PyTree, round: Round) -> PyTree:
        return tree.add_scaled(control, 1 / round.population, changes)

    return with_controls(base, client_update, total, learnt)
