"""FedDisco: clients whose labels are unlike the ideal count less."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.class_statistics import own_counts
from fedjax_kd.components.label_distances import LabelDistance, LabelIdeal, label_distances
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, Variables, stack
from fedjax_kd.local import Fit
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


class CountedChange(NamedTuple):
    """A client's change, and how many labels of each class it has."""

    change: Any
    counts: Any


@extends(fedavg, needs_classes="FedDisco compares the classes that clients hold")
def feddisco(
    task: Task,
    fit: Fit,
    *,
    a: Scalar = 0.5,
    b: Scalar = 0.1,
    distance: LabelDistance = "kl",
    ideal: LabelIdeal = "uniform",
    **options: Any,
) -> Algorithm:
    """FedDisco: clients vote by their examples and by their labels (Ye et al., 2023).

    Against FedAvg: the votes.
    Down: the model. Up: its change, and the counts of labels. Keeps: nothing.

        d_k = distance of the labels of client k from the ideal
        a_k = max(0, p_k - a d_k + b)                     or p_k, where all of these are 0
        w = w + server_lr * sum_k a_k Delta_k / sum_k a_k

    where p_k is FedAvg's share of the votes. Votes depend on who is in the cohort, so that the
    server keeps all changes of a round at once.

    Equals FedAvg when ``a == 0`` and ``b == 0``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      a: how much a distance counts, >= 0.
      b: is added to all votes, >= 0; the larger, the more alike they are.
      distance: "kl" (divergences, divided by their sum over the cohort), "l1", "l2" or "cosine".
      ideal: labels at no distance: "uniform" as in the paper, or those of the "cohort" together.

    Raises:
      ValueError: if a number is out of its range, or ``distance`` or ``ideal`` unknown.

    Departs from the paper: nothing known. The authors' code fails where all votes are 0.
    Source: Ye, Xu, Wang, Xu, Chen, Wang, ICML 2023, arXiv:2305.19229.
    """
    check_choice("distance", distance, LabelDistance)
    check_choice("ideal", ideal, LabelIdeal)
    base = fedavg(task, fit, **options)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = base.client_update(key, received, client, data, round)
        counts = own_counts(task, received, data)
        return upload._replace(message=CountedChange(upload.message, counts)), client

    def votes_of(counts: Float[Array, "K L"], votes: Float[Array, " K"]) -> Float[Array, " K"]:
        there = (votes > 0).astype(votes.dtype)
        apart = label_distances(counts * there[:, None], distance, ideal).astype(votes.dtype)
        shares = votes / jnp.maximum(votes.sum(), jnp.finfo(votes.dtype).tiny)
        discerning = jax.nn.relu(shares - a * apart + b) * there
        return jnp.where(discerning.sum() > 0, discerning, shares)

    def server_update(
        key: Key, server: GlobalModel, update: CountedChange, round: Round
    ) -> GlobalModel:
        votes = votes_of(update.counts, round.votes)
        return base.server_update(key, server, tree.weighted_mean(update.change, votes), round)

    return base._replace(client_update=client_update, aggregate=stack, server_update=server_update)
