"""FedMoSWA: FedSWA with SCAFFOLD's control variates, of which the server's is a momentum."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp

from fedjax_kd import core, tree
from fedjax_kd.algorithms._controls import Controlled
from fedjax_kd.algorithms.scaffold import scaffold
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Fitted
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

MoSwaVariant = Literal["paper", "code", "dispatched"]


@extends(scaffold, fixes=["server_lr"], fixes_local=["lr_end"])
def fedmoswa(
    task: Task,
    fit: Fit,
    *,
    rho: Scalar = 0.1,
    alpha: Scalar = 1.5,
    gamma: Scalar = 0.2,
    variant: MoSwaVariant = "paper",
    **options: Any,
) -> Algorithm:
    """FedMoSWA: momentum-based, stochastic controlled weight averaging (Liu et al., 2025).

    Against FedAvg: FedSWA's learning rates, and a correction of every local gradient.
    Against SCAFFOLD: these learning rates, and the server's control, a moving average.
    Down: the model and the server's control m. Up: the change of the model, and the distance of
    the client's control from m. Keeps: its control c_k.

        y = y - eta_i * (grad f_k(y) - c_k + m)     local steps i = 0 ... S - 1 from y = w
        eta_i = client_lr * (1 - i / S + i / S * rho)
        c_k = c_k - m + (w - y) / sum_i eta_i
        w = w + alpha * mean(y - w);  m = m + gamma * mean(c_k - m)

    Equals FedAvg when ``rho == 1`` and ``alpha == 1``, in the first round, given the same votes.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`, by plain SGD.
      rho: share of the learning rate, in [0, 1], towards which it falls in each round.
      alpha: the server's learning rate, > 0; the paper has 1.5.
      gamma: share of the new mean in m, in [0, 1]; the paper has 0.2.
      variant: "paper"; "code", in which the first round's m is the mean itself, and
        ``S * client_lr * (1 + rho) / 2`` takes the place of the sum of rates, which is a little
        more; or "dispatched", the same where S is 50, however many steps there are.

    Raises:
      ValueError: if a choice is unknown, or ``fit`` has ``lr_end``, which is ``rho``.

    Departs from the paper: nothing known. The authors' function of this name is "code" with
    ``rho=0, alpha=1, gamma=0.4``, but their command line runs "dispatched" with ``rho=1``. Both
    clip gradients before they are corrected, and not after.
    Source: J. Liu and others, ICML 2025, arXiv:2507.20016.
    """
    check_choice("variant", variant, MoSwaVariant)
    paper, falling = variant == "paper", fit.but(lr_end=rho)
    if not paper:
        falling = _dividing(falling, rho, 50 if variant == "dispatched" else None)
    base = scaffold(task, falling, server_lr=alpha, **options)

    def client_update(
        key: Key, received: Controlled, control: PyTree, data: Data, round: Round
    ) -> tuple[Upload, PyTree]:
        upload, new = base.client_update(key, received, control, data, round)
        message = upload.message._replace(control=tree.sub(new, received.control))
        return upload._replace(message=message), new

    def server_update(key: Key, server: Controlled, update: Controlled, round: Round) -> Controlled:
        share = gamma if paper else jnp.where(round.number == 0, 1, gamma)
        moved = base.server_update(key, server, update, round)
        return moved._replace(control=tree.add_scaled(server.control, share, update.control))

    return base._replace(
        client_update=client_update,
        aggregate=Controlled(core.mean, core.uniform_mean),
        server_update=server_update,
    )


def _dividing(fit: Fit, rho: Scalar, divisor: int | None) -> Fit:
    """Local training whose rates add up to the area under the line that they fall along."""

    def run(key: Key, model: Variables, data: Data, objective: Objective, round: Round) -> Fitted:
        fitted = fit.run(key, model, data, objective, round)
        steps = jnp.maximum(fitted.steps, 1).astype(fitted.travel.dtype)
        area = (steps if divisor is None else divisor) * (1 + rho)
        return fitted._replace(travel=fitted.travel * area / (steps * (1 + rho) + 1 - rho))

    return fit._replace(run=run)
