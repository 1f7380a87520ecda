"""FedBABU: FedAvg of the body below a head that is never trained, but before evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax

from fedjax_kd.algorithms._partial import Tuning, fedavg_without, tuned_for_evaluation
from fedjax_kd.algorithms.fedper import fedper
from fedjax_kd.components.model_parts import Part, other, personal_part
from fedjax_kd.components.part_training import of_part
from fedjax_kd.core import Algorithm, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Tuned = Literal["all", "head", "body"]


@extends(fedper)
def fedbabu(
    task: Task,
    fit: Fit,
    *,
    tune_epochs: int = 5,
    tune_lr: Scalar | None = None,
    tunes: Tuned = "all",
    personal: Callable[[Variables], Part] | None = None,
    **options: Any,
) -> Algorithm:
    """FedBABU: bodies are learnt below one random head for all (Oh, Kim, Yun, 2022).

    Against FedPer: the head stays as it was at the start; a client is tuned before it is evaluated.
    Down: the body, which is what ``features`` uses. Up: its change. Keeps: the head, which all
    clients have in common.

        W_B,k = fit(W_B, client k) with W_P = W_P,0
        W_B = W_B + server_lr * sum_k n_k (W_B,k - W_B) / sum_k n_k
        evaluation of client k: ``tune_epochs`` of fit((W_B, W_P,0), client k)

    Equals FedAvg when ``personal`` is nothing and ``tune_epochs == 0``.

    Args:
      task: a model with ``features`` that knows the shape of its examples.
      fit: local training, from `fedjax_kd.local.local_training`; with these epochs also that before
        evaluation.
      tune_epochs: a client's passes over its own examples before evaluation, >= 0; with 0 all
        clients use the common model. The authors' code has 5.
      tune_lr: learning rate of these passes, > 0; by default that of the first round. Features may
        be large below a head that stays small: where tuning harms, take a smaller one.
      tunes: what they train then: the whole model, the "head", or the "body".
      personal: the model's shapes -> booleans, one a value: what is not trained. By default all
        that the model uses after ``features``, whatever its name.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if ``tunes`` is unknown, the task does not know the shape of its examples, or by
        default all or none of the model would stay as it is.

    Departs from the paper: nothing known. The authors' code averages bodies uniformly, freezes by a
    learning rate of 0, and finds the head by its name. Statistics of normalisation are body.
    Source: Oh, Kim, Yun, ICLR 2022, arXiv:2106.06042.
    """
    check_choice("tunes", tunes, Tuned)
    head = personal_part(task, personal)
    body, everything = other(head), jax.tree.map(lambda _: True, head)
    base = fedavg_without(task, of_part(fit, body), head, **options)
    part = {"all": everything, "head": head, "body": body}[tunes]
    return tuned_for_evaluation(base, task, fit, Tuning(part, tune_epochs, tune_lr))
