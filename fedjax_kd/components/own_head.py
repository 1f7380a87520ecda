"""A head of the client's own beside the model, both trained at once and each by its own loss."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array

from fedjax_kd.components.joint_models import Two, as_one, as_two
from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change

HeadsLoss = Callable[[Variables, Variables, Batch, Key], tuple[Array, PyTree]]
"""(model, own head, batch, key) -> (the sum of both losses, new stats of the model)"""

ModelAndHead = tuple[Variables, Variables]
"""The model, and the client's own head."""


def change_of_both(
    fit: Fit, weighting: Weighting
) -> Callable[[Key, ModelAndHead, Data, HeadsLoss, Round], tuple[Upload, Variables]]:
    """Local training of the model and of the own head, of which the model's change is sent.

    Where neither loss has a gradient by the other's parameters, the steps of both are those that
    they would take alone, but for a bound on the norm of the gradient, which is that of both.

    Args:
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: whether clients vote by their examples or all alike.

    Returns:
      ``(key, (model, own head), data, loss, round) -> (upload, own head)``; the head is a tree
      from `fedjax_kd.components.model_parts.partition`.
    """
    change = local_change(fit, weighting)

    def both(
        key: Key, start: ModelAndHead, data: Data, loss: HeadsLoss, round: Round
    ) -> tuple[Upload, Variables]:
        def objective(pair: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            model, head = as_two(pair)
            value, stats = loss(model, head, batch, key)
            return value, Two(stats, head.stats)

        upload, fitted = change(key, as_one(*start), data, objective, round)
        return upload._replace(message=as_two(upload.message).shared), as_two(fitted.model).own

    return both
