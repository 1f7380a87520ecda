"""A head of the client's own beside the model, both trained at once and each by its own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change

HeadsLoss = Callable[[Variables, Variables, Batch, Key], tuple[Array, PyTree]]
"""(model, own head, batch, key) -> (the sum of both losses, new stats of the model)"""


class TwoHeaded(NamedTuple):
    """The model and the client's own head, or the parameters, or the statistics, of both."""

    shared: PyTree
    own: PyTree


def change_of_both(
    fit: Fit, weighting: Weighting
) -> Callable[[Key, TwoHeaded, Data, HeadsLoss, Round], tuple[Upload, Variables]]:
    """Local training of the model and of the own head, of which the model's change is sent.

    Where neither loss has a gradient by the other's parameters, the steps of both are those that
    they would take alone, but for a bound on the norm of the gradient, which is that of both.

    Args:
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: whether clients vote by their examples or all alike.

    Returns:
      ``(key, model and own head, data, loss, round) -> (upload, own head)``; the head is a tree
      from `fedjax_kd.components.model_parts.partition`.
    """
    change = local_change(fit, weighting)

    def both(
        key: Key, start: TwoHeaded, data: Data, loss: HeadsLoss, round: Round
    ) -> tuple[Upload, Variables]:
        def objective(pair: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            model, head = _apart(pair)
            value, stats = loss(model, head, batch, key)
            return value, TwoHeaded(stats, head.stats)

        joint = Variables(*(TwoHeaded(*of) for of in zip(start.shared, start.own, strict=True)))
        upload, fitted = change(key, joint, data, objective, round)
        return upload._replace(message=_apart(upload.message)[0]), _apart(fitted.model)[1]

    return both


def _apart(pair: Variables) -> tuple[Variables, Variables]:
    params, stats = pair.params, pair.stats
    return Variables(params.shared, stats.shared), Variables(params.own, stats.own)
