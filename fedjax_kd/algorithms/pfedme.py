"""pFedMe: clients pull the global model towards models of their own, which they find near it."""

from __future__ import annotations

from typing import Any

from fedjax_kd import tree
from fedjax_kd.algorithms._moreau import Inner, InnerStart, moreau_objective
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import inner_spring_is_stiff, warns_of
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(inner_spring_is_stiff)
def pfedme(
    task: Task,
    fit: Fit,
    *,
    lamb: Scalar = 15.0,
    inner_steps: int = 5,
    inner_lr: Scalar = 0.05,
    decay: Scalar = 0.0,
    inner_start: InnerStart = "last",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """pFedMe: personal models by Moreau envelopes of the clients' losses (Dinh et al., 2020).

    Against FedAvg: the local gradient, which takes ``inner_steps`` others to find; a model is kept.
    Down: the model. Up: its change. Keeps: the client's own model theta, params and stats.

        theta = theta - inner_lr * (grad f(theta; B) + lamb * (theta - w_k) + decay * theta)
        w_k = w_k - client_lr * lamb * (w_k - theta)      after inner_steps of these, on a batch B
        w = w + server_lr * mean(w_k - w)

    theta starts at w in each round, and a client predicts by the last one.

    Equals FedAvg when ``inner_steps == 1``, ``lamb * inner_lr == 1``, ``decay == 0`` and
    ``inner_start == "model"``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training; ``client_lr`` is the paper's eta (0.005), its steps are R (20), and with
        ``batch_size=0`` theta is found on each 64 examples.
      lamb: strength of the proximal term, > 0; the paper has 15.
      inner_steps: steps of theta on each batch, the paper's K, >= 1.
      inner_lr: their learning rate, >= 0. Unstable if ``lamb`` times it reaches 2.
      decay: L2 regularisation of theta, >= 0; the authors' code has 0.001.
      inner_start: theta starts in a local step from the "last" one, or from the local "model".
      weighting: how clients vote; uniformly in the paper, by their examples in the authors' code.

    Raises:
      ValueError: if ``inner_start`` is unknown, or a number is out of its range.

    Departs from the paper: theta takes a given number of steps, as in the authors' code, where also
    clients outside the cohort train. ``server_lr`` is the paper's beta.
    Source: Dinh, Tran, Nguyen, NeurIPS 2020, arXiv:2006.08848.
    """
    check_choice("inner_start", inner_start, InnerStart)
    base, vote = fedavg(task, fit, weighting=weighting, **options), voting(weighting)

    inner = Inner(inner_steps, inner_lr, decay, inner_start)
    objective = moreau_objective(task.loss, lamb, inner)

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        fitted = fit(key, Variables(received.params, received), data, objective, round)
        params, own = fitted.model
        change = tree.sub(Variables(params, own.stats), received)
        return Upload(change, vote(data), fitted.metrics), own

    return base._replace(
        client_init=lambda key, server: server.model,
        client_update=client_update,
        predict=lambda server, own, x: task.apply(own, x)[0],
        judged_by="clients",
    )
