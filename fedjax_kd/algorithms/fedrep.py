"""FedRep: FedPer whose clients train the head first, then the body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedjax_kd.algorithms._partial import Tuning, fedavg_without, tuned_for_evaluation
from fedjax_kd.algorithms.fedper import fedper
from fedjax_kd.components.model_parts import Part, other, personal_part
from fedjax_kd.components.part_training import in_turns, of_part
from fedjax_kd.core import Algorithm, Variables
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedper)
def fedrep(
    task: Task,
    fit: Fit,
    *,
    head_epochs: int = 10,
    tune_epochs: int = 0,
    personal: Callable[[Variables], Part] | None = None,
    **options: Any,
) -> Algorithm:
    """FedRep: a common body, and heads that fit it before it moves (Collins et al., 2021).

    Against FedPer: head and body are trained one after the other, each while the other one rests.
    Down: the body, which is what ``features`` uses. Up: its change. Keeps: the head.

        W_P,k = ``head_epochs`` of fit(W_P,k, client k) with W_B
        W_B,k = fit(W_B, client k) with W_P,k
        W_B = W_B + server_lr * sum_k n_k (W_B,k - W_B) / sum_k n_k

    Equals FedAvg when ``personal`` is nothing.

    Args:
      task: a model with ``features`` that knows the shape of its examples.
      fit: local training of the body, from `fedjax_kd.local.local_training`; with other epochs also
        that of the head. The paper trains the body for one epoch.
      head_epochs: a client's passes over its own examples in which the head is trained, >= 1.
      tune_epochs: such passes of the head before evaluation, which nobody keeps, >= 0; 0 evaluates
        the head that was trained last. The authors' code has as many as in a round, or 10.
      personal: the model's shapes -> booleans, one a value: what stays at home. By default all that
        the model uses after ``features``, whatever its name.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if the task does not know the shape of its examples, or if by default all or none
        of the model would stay at home.

    Departs from the paper: clients vote by their examples, as in the authors' code; the paper's
    have the same number of them.
    Source: Collins, Hassani, Mokhtari, Shakkottai, ICML 2021, arXiv:2102.07078.
    """
    head = personal_part(task, personal)
    first = of_part(fit.but(epochs=head_epochs, steps=None), head)
    base = fedavg_without(task, in_turns(first, of_part(fit, other(head))), head, **options)
    return tuned_for_evaluation(base, task, fit, Tuning(head, tune_epochs))
