"""FedKD: FedAvg of small students, taught by mentors at home, whose changes are cut in rank."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import mutual_learning
from fedjax_kd.components.low_rank import LowRank, cut, rising, whole
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Scalar, Upload, Wire
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.losses.mutual import MutualVariant
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedKD distils classes")
def fedkd(
    task: Task,
    fit: Fit,
    *,
    mentor: Task | None = None,
    t_min: Scalar = 0.95,
    t_max: Scalar = 0.98,
    rounds: Scalar = 100.0,
    beta: Scalar = 1.0,
    hidden: mutual_learning.Hidden = "projected",
    variant: MutualVariant = "paper",
    evaluate: mutual_learning.Evaluated = "student",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """FedKD: mentor and student teach each other, the student travels (Wu et al., 2022).

    Against FedAvg: a second model in the local loss; changes are cut in rank, up and down.
    Down: the student, and a number. Up: its change. Keeps: the mentor, and W_h ``[D, D]``.

        c = 1 / (CE(z_t, y) + CE(z_s, y)),  h = mean (h_t - h_s W_h)^2  of the features
        student: CE(z_s, y) + beta c (KL(z_t || z_s) + h);  mentor: s and t change places in KL
        T = t_min + (t_max - t_min) * min(1, (round + 1) / rounds)
        w = w + server_lr * cut(mean_k cut(w_k - w, T), T)

    Equals FedAvg when ``beta == 0`` and ``t_min == t_max == 1``, given the same ``weighting``.
    What is cut keeps its shape; the bytes of its factors are counted.

    Args:
      task: the student, a classifier with ``features``.
      fit: local training of both models at once, in one optimiser.
      mentor: another task on the same examples and classes; by default one like ``task``.
      t_min: share of a matrix's energy that travels at first, in [0, 1].
      t_max: that share at last, in [0, 1].
      rounds: over which it grows, >= 1.
      beta: weight of all that is distilled, >= 0; the paper has 1.
      hidden: whether features are compared after W_h ("projected"), as they are, or not at all.
      variant: "code" lets gradients into c and the other's side, and averages KL over classes.
      evaluate: whose predictions count; the authors' code tests the mentors.
      weighting: how clients vote; uniformly in the paper.

    Raises:
      ValueError: if a number is out of its range, or a model cannot give what is asked for.

    Departs from the paper: one hidden state, no attention maps, random mentors. The authors' code
    stops at its reconstruction, and zeroes matrices whose rank it cannot cut; here they stay whole.
    Source: Wu, Wu, Lyu, Huang, Xie, Nature Communications 2022, arXiv:2108.13323.
    """
    check_choice("evaluate", evaluate, mutual_learning.Evaluated)
    base = fedavg(task, fit, weighting=weighting, **options)
    change, by_mentor = local_change(fit, weighting), evaluate == "mentor"
    energy, teacher = rising(t_min, t_max, rounds), mentor or task
    objective = mutual_learning.mutual_objective(task, teacher, hidden, beta, variant)

    def client_update(
        key: Key, received: LowRank, own: mutual_learning.Private, data: Data, round: Round
    ) -> tuple[Upload, mutual_learning.Private]:
        joint = mutual_learning.together(received.base, own)
        upload, fitted = change(key, joint, data, objective, round)
        sent = cut(mutual_learning.apart(upload.message)[0], energy(round.number))
        wire = Wire(up=sent.size, down=received.size + received.size.itemsize)
        own = mutual_learning.apart(fitted.model)[1]
        return upload._replace(message=sent.base, wire=wire), own

    def server_update(key: Key, server: LowRank, update: Any, round: Round) -> LowRank:
        kept = cut(update, energy(round.number))
        return LowRank(base.server_update(key, server.base, kept.base, round), kept.size)

    def predict(server: LowRank, own: mutual_learning.Private, x: PyTree) -> Array:
        used, model = (teacher, own.mentor) if by_mentor else (task, server.base.model)
        return used.apply(model, x)[0]

    return base._replace(
        server_init=lambda key: whole(server := base.server_init(key), server.model),
        client_init=lambda key, server: mutual_learning.start_of(task, teacher, hidden, key),
        broadcast=lambda server, number, round: LowRank(server.base.model, server.size),
        client_update=client_update,
        server_update=server_update,
        predict=predict,
        judged_by="clients" if by_mentor else "server",
    )
