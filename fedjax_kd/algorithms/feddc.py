"""FedDC: FedAvg whose clients learn how far they drift, and correct it on both sides."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms._controls import Controlled, with_controls
from fedjax_kd.algorithms._duals import fedavg_with_duals
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.corrections import corrected, tethered
from fedjax_kd.components.sharp_edges import examples_are_left_out, wants_sgd, warns_of
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, mean, total
from fedjax_kd.local import Fit, local_change
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

DCVariant = Literal["paper", "code"]


@extends(fedavg, fixes=["objective", "weighting"])
@warns_of(wants_sgd("FedDC"), examples_are_left_out)
def feddc(
    task: Task,
    fit: Fit,
    *,
    alpha: Scalar = 0.01,
    variant: DCVariant = "paper",
    total_examples: int | None = None,
    **options: Any,
) -> Algorithm:
    """FedDC: local drift is decoupled and corrected (Gao et al., 2022).

    Against FedAvg: the local loss; clients keep their drift h_k, which they add to what they send.
    Down: the model and the server's control c. Up: ``y - w + h_k``, and c_k. Keeps: h_k and c_k.

        y = y - lr * (grad f_k(y) + alpha * (y - w + h_k) + c - c_k)    local steps from y = w
        h_k = h_k + y - w;  c_k = (w - y) / (sum of the steps' learning rates)
        w = w + server_lr * mean(y - w + h_k);  c = mean(c_k)

    It is never FedAvg: the server adds the drifts, so that its first step is twice as long.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`, by plain SGD; the authors' code
        has ``weight_decay=1e-3, clip_norm=10``.
      alpha: strength of the spring around ``w - h_k``, >= 0; 0.01 on CIFAR-10 in the authors' code.
      variant: "paper" is above; in "code" the server adds the mean h_k of all clients, as FedDyn's
        does, and the controls are those of SCAFFOLD's option II.
      total_examples: the training examples of all clients, >= 1, in "code" alone: a client that has
        p_k times the mean takes ``alpha / p_k`` and ``c / p_k``, and its control counts p_k times.

    Raises:
      ValueError: if ``variant`` is unknown.

    Departs from the paper: c_k is ``-1 / (lr * S)`` times its update of a client, where S are the
    client's own steps; the authors' code takes those of the mean client for all.
    Source: Gao, Fu, Li, Chen, Xu, Xu, CVPR 2022, arXiv:2203.11751.
    """
    check_choice("variant", variant, DCVariant)
    paper = variant == "paper"
    base = fedavg_with_duals(task, fit, alpha, "present" if paper else "all", **options)
    change_by = local_change(fit, "uniform")

    def client_update(
        key: Key, received: Controlled, kept: Controlled, data: Data, round: Round
    ) -> tuple[Upload, Controlled]:
        share = 1.0 if total_examples is None else _share(data, total_examples, round)
        pull = tree.sub(tree.scale(1 / share, received.control), kept.control)
        held = tethered(task.loss, alpha / share, tree.sub(received.base.params, kept.base))
        upload, fitted = change_by(key, received.base, data, corrected(held, pull), round)
        change = upload.message
        drift = tree.add(kept.base, change.params)
        travel = jnp.where(fitted.travel == 0, 1, fitted.travel)
        control = sent = tree.scale(-1 / travel, change.params)
        if paper:
            change = change._replace(params=tree.add(change.params, drift))
        else:
            control = tree.sub(control, pull)
            sent = tree.scale(share, tree.sub(control, kept.control))
        return upload._replace(message=Controlled(change, sent)), Controlled(drift, control)

    def learnt(control: PyTree, sent: PyTree, round: Round) -> PyTree:
        return sent if paper else tree.add_scaled(control, 1 / round.population, sent)

    def traits(server: Controlled, kept: Controlled) -> dict[str, Array]:
        return {"drift": jnp.sqrt(tree.sq_norm(kept.base))}

    made = with_controls(base, client_update, mean if paper else total, learnt)
    return made._replace(traits=traits)


def _share(data: Data, total_examples: int, round: Round) -> Array:
    """A client's examples over the mean client's."""
    return jnp.maximum(data.size, 1).astype(jnp.float32) * round.population / total_examples
