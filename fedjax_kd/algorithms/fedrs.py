"""FedRS: FedAvg whose clients restrict the logits of classes that they lack."""

from __future__ import annotations

from functools import partial
from typing import Any

from fedjax_kd import losses
from fedjax_kd.algorithms._counted import fedavg_by_counts
from fedjax_kd.core import Algorithm, Scalar
from fedjax_kd.local import Fit
from fedjax_kd.losses.label_skew import Restriction
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg_by_counts, needs_classes="FedRS restricts the classes that a client lacks")
def fedrs(
    task: Task, fit: Fit, *, alpha: Scalar = 0.5, variant: Restriction = "paper", **options: Any
) -> Algorithm:
    """FedRS: a restricted softmax of the classes that a client lacks (Li, Zhan, 2021).

    Against FedAvg: the local loss.
    Down: the model. Up: its change. Keeps: nothing.

        a_c = 1 if the client has examples of class c, else alpha
        loss_k(w) = mean_x CE(a * f(x; w), y)

    Predictions are not restricted. With ``alpha == 0`` the logits of absent classes are 0; they
    still take their part of the softmax.

    Equals FedAvg when ``alpha == 1``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      alpha: factor on the logits of absent classes, in [0, 1]; the paper tries 0.9, 0.5 and 0.1.
      variant: "code" has the factor ``alpha + (1 - alpha) n_c / max n``, as the authors' code: it
        restricts a client's rare classes, too.

    Raises:
      ValueError: if ``alpha`` is out of its range, or ``variant`` unknown.

    Departs from the paper: its classifier has no bias; where there is one, a_c multiplies it, too.
    The authors' code takes at least five local steps.
    Source: Li, Zhan, KDD 2021, "FedRS: Federated Learning with Restricted Softmax for Label
    Distribution Non-IID Data".
    """
    check_choice("variant", variant, Restriction)
    adjust = partial(losses.class_restrictions, alpha=alpha, variant=variant)
    return fedavg_by_counts(task, fit, adjust, **options)
