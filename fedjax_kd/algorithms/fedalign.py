"""FedAlign: FedAvg whose last block has the same Lipschitz constant at reduced width."""

from __future__ import annotations

from numbers import Real
from typing import Any

import jax
from jaxtyping import Array, Float

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import last_block
from fedjax_kd.components.sharp_edges import alignment_wants_clipping, warns_of
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.nn.narrow import check_separate, first_channels, narrow
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(alignment_wants_clipping)
def fedalign(
    task: Task,
    fit: Fit,
    *,
    mu: Scalar = 0.45,
    width: Scalar = 0.25,
    divisor: int = 1,
    **options: Any,
) -> Algorithm:
    """FedAlign: distillation of a block into its own first channels (Mendieta et al., 2022).

    Against FedAvg: the local loss, which costs a narrow pass of the last block.
    Down: the model. Up: its change. Keeps: nothing.

        x2, x3 = input and output of the last block;  s2 = x2[..., :width * C], s3 = block_width(s2)
        r = mean_x (sigma(s2, s3) - sigma(x2, x3))^2
        loss_k(w) + mu * r * loss_k(w) / r

    sigma is the largest singular value of ``pool(a)^T b / places``. The quotient in the last term
    is a constant, so are x2 and x3: gradients of r reach the block's first channels and no more.
    The narrow pass normalises by its own batch statistics and moves no running ones. As r goes to
    0, its gradient is scaled without bound: the paper's code clips, `local_training(clip_norm=10)`.

    Equals FedAvg when ``mu == 0``.

    Args:
      task: a network with a method ``last_block``, and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      mu: weight of the alignment, >= 0; the paper uses 0.45.
      width: share of channels in the narrow pass, in (0, 1); the paper uses 0.25. At least one is
        kept. In a sweep, where it is traced, the others are set to zero instead of left out, which
        layer and group normalisation do not allow.
      divisor: channels are rounded to a multiple of this, >= 1; the authors' code has 8 (and
        keeps 1 or 9 where the width asks for less than 4).

    Raises:
      ValueError: if a number is out of its range, or the task has no last block; when the
        simulation is built, if channels cannot be normalised in groups.

    Departs from the paper: nothing known. Its code clips gradients, an option of ``fit`` here.
    Source: Mendieta, Yang, Wang, Lee, Ding, Chen, CVPR 2022, arXiv:2111.14213.
    """
    if not isinstance(width, Real):
        check_separate(task.norm_kinds)
    block = last_block(task, "FedAlign")

    def objective(received: Variables) -> Objective:
        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            *maps, logits, stats = block.passed(model, batch.x, key)
            x2, x3 = jax.lax.stop_gradient(maps)
            s2 = first_channels(x2, width, divisor)
            s3 = block.alone(narrow(model, width, divisor), s2, jax.random.fold_in(key, 1))
            r = losses.lipschitz_alignment((_map(s2), _map(s3)), (_map(x2), _map(x3)))
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            term = losses.as_large_as(losses.masked_mean(r, batch.mask), supervised)
            return supervised + mu * term, stats

        return loss

    return fedavg(task, fit, objective=objective, **options)


def _map(x: Float[Array, "B *S C"]) -> Float[Array, "B H W C"]:
    """Features with two axes of places, of length 1 if they have none."""
    return x.reshape(x.shape[0], *(*x.shape[1:-1], 1, 1)[: max(x.ndim - 2, 2)], x.shape[-1])
