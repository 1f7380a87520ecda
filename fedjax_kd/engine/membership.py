"""Membership inference: can the loss of an example tell whether a model was trained on it?"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import Pool, State
from fedjax_kd.engine.evaluation import shared_model
from fedjax_kd.engine.measuring import measure_rows
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import Metric


class Membership(NamedTuple):
    """How well examples of training are told from others by a threshold on their losses."""

    auc: float  # area under the curve of true by false positives; 0.5 by chance
    advantage: float  # the largest true positive rate minus the false one
    at_one_percent: float  # true positive rate at a false one of 1 %
    members: int
    others: int


def told_apart(members: NDArray[np.float64], others: NDArray[np.float64]) -> Membership:
    """The attack that calls an example a member if its loss is small (Yeom et al., 2018).

    Args:
      members: losses of examples of training ``[N]``.
      others: losses of examples that were not ``[M]``.

    Source: Yeom, Giacomelli, Fredrikson, Jha, CSF 2018, arXiv:1709.01604; the rate at one per cent:
    Carlini et al., S&P 2022, arXiv:2112.03570.

    Example:
      >>> told_apart(np.array([0.1, 0.2, 0.9]), np.array([0.8, 1.0, 2.0]))[:2]
      (0.89, 0.67)
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    losses = np.concatenate([members, others])
    is_member = np.arange(len(losses)) < len(members)
    false, true, _ = roc_curve(is_member, -losses)
    return Membership(
        float(roc_auc_score(is_member, -losses)),
        float((true - false).max()),
        float(true[false <= 0.01].max()),
        len(members),
        len(others),
    )


def membership_inference(s: Simulation, state: State, finished: int) -> Membership:
    """The attack on the global model: training rows of clients that took part, and test rows.

    Args:
      s: the simulation.
      state: after training.
      finished: rounds, whose clients took part.

    Raises:
      ValueError: if examples are streamed, or nobody has taken part.
    """
    if s.federation.store is not None:
        raise InputError("Membership is inferred of examples on the device, not of streamed ones.")
    taken = {int(i) for number in range(finished) for i in s.cohort(number).ids}
    if not taken:
        raise InputError("Nobody has taken part in training: evaluate a later checkpoint.")
    algorithm = s.groups[0]
    measures = {"loss": s.measures(algorithm)["loss"]}

    def losses(state: State, pool: Pool) -> NDArray[np.float64]:
        predict = shared_model(algorithm, s.key("evaluate"), state.server)
        rows, _ = measure_rows(predict, measures, pool, s.backend.rows_at_once)
        return rows["loss"]

    program = jax.jit(losses)
    ours = np.repeat(np.isin(np.arange(len(s.federation.sizes)), [*taken]), s.federation.sizes)
    metric: Metric = measures["loss"]
    of_train, of_test = (
        np.asarray(metric.value(jax.device_get(program(state, pool))), np.float64)
        for pool in (s.federation.train, s.federation.test)
    )
    return told_apart(of_train[: len(ours)][ours], of_test)
