"""APFL: each client mixes the global model with one of its own, and learns how much of either."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms._two_models import fedavg_beside
from fedjax_kd.algorithms.fedavg import GlobalModel
from fedjax_kd.components.interpolation import OwnStats, blended, times
from fedjax_kd.components.joint_models import Two, as_two
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Adapt = Literal["first", "every"]
ApflVariant = Literal["paper", "fedjax"]


@extends(fedavg_beside)
def apfl(
    task: Task,
    fit: Fit,
    *,
    alpha: Scalar = 0.5,
    alpha_lr: Scalar = 0.1,
    adapt: Adapt = "first",
    variant: ApflVariant = "paper",
    **options: Any,
) -> Algorithm:
    """APFL: clients predict by a mixture of two models, whose share they learn (Deng et al., 2020).

    Against FedAvg: clients train a second model as well, as a part of the mixture.
    Down: the model. Up: its change. Keeps: its own model v_k, params and stats, and its share
    alpha_k.

        m = alpha_k v_k + (1 - alpha_k) w_k                   all from the values before the step
        w_k = w_k - lr * grad f(w_k);  v_k = v_k - lr * alpha_k * grad f(m)
        alpha_k = clip(alpha_k - alpha_lr * <v_k - w_k, grad f(m)>, 0, 1)

    and the client predicts by m, made with the global model.

    Equals FedAvg in its global model, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training of both; with ``batch_size=0`` a share moves after each 64 examples.
      alpha: the share of a newcomer's own model, in [0, 1]; the paper tries 0.25, 0.5 and 0.75.
      alpha_lr: learning rate of the share, >= 0; 0 keeps it, and the paper has that of ``fit``.
      adapt: whether the share moves in the "first" local step of a round, or in "every" one.
      variant: "fedjax" has a share for each array, and no factor alpha_k on v_k's gradient.

    Raises:
      ValueError: if ``adapt`` or ``variant`` is unknown, or a number is out of its range.

    Departs from the paper: the mixture has running statistics of its own. The authors' code mixes
    logits, steps w_k before the mixture is made, and lets alpha_k decay; FedJAX lets v_k start at
    the model that a client first receives, and not at the initial one.
    Source: Deng, Kamani, Mahdavi, 2020, arXiv:2003.13461.
    """
    check_choice("adapt", adapt, Adapt)
    check_choice("variant", variant, ApflVariant)

    def objective(joint: Variables, batch: Batch, key: Key, step: Any) -> tuple[Array, PyTree]:
        (shared, own), held = as_two(joint), jax.lax.stop_gradient(joint.params)
        measured, share = own.stats
        mixed = Variables(blended(held.shared, held.own, share), measured)
        own_value, measured, slope = gradient(task.loss, mixed, batch, key)
        ahead, rate = tree.sub(held.own, held.shared), jnp.asarray(alpha_lr, float)
        rise = jax.tree.map(lambda _, a, g: tree.dot(a, g), share, ahead, slope)
        rate = rate if adapt == "every" else jnp.where(step == 0, rate, 0)
        moved = jax.tree.map(lambda a: jnp.clip(a, 0, 1), tree.add_scaled(share, -rate, rise))
        value, stats = task.loss(shared, batch, key)
        # The gradient of a linear term is the step, whatever the local optimiser is.
        step_of_own = times(share, slope) if variant == "paper" else slope
        own_value += tree.dot(step_of_own, tree.sub(own.params, held.own))
        return value + own_value, Two(stats, OwnStats(measured, moved))

    def init(key: Key, server: GlobalModel) -> Variables:
        params, stats = server.model
        share = jnp.asarray(alpha, float)
        each = share if variant == "paper" else jax.tree.map(lambda _: share, params)
        return Variables(params, OwnStats(stats, each))

    def predict(shared: Variables, own: Variables, x: PyTree) -> Array:
        measured, share = own.stats
        return task.apply(Variables(blended(shared.params, own.params, share), measured), x)[0]

    def traits(server: GlobalModel, own: Variables) -> dict[str, Array]:
        shares = jnp.stack(jax.tree.leaves(own.stats.share))
        return {"alpha": shares[0] if variant == "paper" else shares}

    return fedavg_beside(task, fit, objective, init, predict, **options)._replace(traits=traits)
