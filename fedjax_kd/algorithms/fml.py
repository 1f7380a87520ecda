"""FML: each client's own model and its copy of the global one teach each other."""

from __future__ import annotations

from typing import Any, Literal

import jax
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms._two_models import fedavg_beside
from fedjax_kd.components.joint_models import Two, as_two
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

FmlVariant = Literal["paper", "pfllib"]
FmlEvaluated = Literal["own", "meme"]


@extends(fedavg_beside, needs_classes="FML distils classes")
def fml(
    task: Task,
    fit: Fit,
    *,
    own: Task | None = None,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    variant: FmlVariant = "paper",
    evaluate: FmlEvaluated = "own",
    **options: Any,
) -> Algorithm:
    """FML: mutual learning of the model that travels and one that stays (Shen et al., 2020).

    Against FedAvg: a second model, and in both losses a distillation from the other one. The model
    that travels is called the meme.
    Down: the meme. Up: its change. Keeps: the client's own model, params and stats.

        own:  alpha CE(z_own, y) + (1 - alpha) KL(z_meme || z_own)
        meme: beta CE(z_meme, y) + (1 - beta) KL(z_own || z_meme)

    Both are stepped from one forward pass, with the other side taken as a constant.

    Equals FedAvg in the meme when ``beta == 1``, given the same ``weighting``; with ``alpha == 1``
    own models are those of standalone training.

    Args:
      task: the meme, a classifier.
      fit: local training of both models; the paper has momentum 0.9 and weight decay 5e-4.
      own: another task on the same examples and classes; by default one like ``task``.
      alpha: share of the labels in the own model's loss, in [0, 1].
      beta: share of the labels in the meme's loss, in [0, 1].
      variant: "pfllib" lets gradients into the other's side, and averages KL over classes.
      evaluate: whose predictions count; the paper judges both.

    Raises:
      ValueError: if ``variant`` or ``evaluate`` is unknown, or a number is out of its range.

    Departs from the paper: the optimiser of own models starts anew in every round, too. Own models
    start at random, each by itself.
    Source: Shen, Zhang, Jia, Zhang, Huang, Zhou, Kuang, Wu, Wu, 2020, arXiv:2006.16765.
    """
    check_choice("variant", variant, FmlVariant)
    check_choice("evaluate", evaluate, FmlEvaluated)
    second, constant = own or task, jax.lax.stop_gradient if variant == "paper" else lambda x: x

    def objective(joint: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        meme, mine = as_two(joint)
        meme_logits, meme_stats = task.apply(meme, batch.x, key)
        own_logits, own_stats = second.apply(mine, batch.x, key)

        def taught(of: Task, logits: Array, other: Array, share: Scalar) -> Array:
            divergence = losses.kl_divergence(logits, constant(other))
            if variant == "pfllib":
                divergence /= logits.shape[-1]
            return share * of.example_loss(logits, batch.y) + (1 - share) * divergence

        values = taught(second, own_logits, meme_logits, alpha)
        values += taught(task, meme_logits, own_logits, beta)
        return losses.batch_mean(values, batch), Two(meme_stats, own_stats)

    base = fedavg_beside(
        task,
        fit,
        objective,
        lambda key, server: second.init(key),
        lambda meme, mine, x: (
            second.apply(mine, x)[0] if evaluate == "own" else task.apply(meme, x)[0]
        ),
        **options,
    )
    return base._replace(judged_by="clients" if evaluate == "own" else "server")
