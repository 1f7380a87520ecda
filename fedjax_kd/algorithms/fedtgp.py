"""FedTGP: FedProto whose server trains the prototypes to lie apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms.fedproto import fedproto
from fedjax_kd.components.class_means import ClassSums, WithMeans
from fedjax_kd.components.trained_prototypes import (
    PrototypeTraining,
    prototype_parameters,
    prototypes_of,
    train_prototypes,
)
from fedjax_kd.core import Algorithm, Key, Round, Scalar, stack
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


class WithGenerator(NamedTuple):
    """FedProto's server, and what generates its prototypes."""

    base: WithMeans
    params: Any


@extends(fedproto, fixes=["weighting"])
def fedtgp(
    task: Task,
    fit: Fit,
    *,
    tau: Scalar = 100.0,
    prototype_steps: int = 100,
    prototype_lr: Scalar = 0.01,
    prototype_hidden: int = 64,
    **options: Any,
) -> Algorithm:
    """FedTGP: trainable prototypes with a margin that adapts (Zhang et al., 2024).

    Against FedProto: the server's prototypes are no means, but trained on those of the clients.
    Down: prototypes [L, D], which of them there are [L]. Up: its own, counts [L]. Keeps: a model.

        margin = min(max_c min_c' |mean_k P_kc - mean_k P_kc'|, tau)
        loss(P) = mean_kc CE(-|P_kc - P| - margin * onehot(c), c)

    Prototypes are made by a small network from an embedding of the classes. It is never FedAvg:
    with ``lamb == 0`` every client trains alone.

    Args:
      task: a classifier with ``features``, vectors of the same width D for all.
      fit: local training, from `fedjax_kd.local.local_training`.
      tau: the largest margin, >= 0.
      prototype_steps: of SGD a round, on all that clients sent, >= 0; the authors' code passes
        1000 times over it in batches.
      prototype_lr: its learning rate, >= 0.
      prototype_hidden: units of the network, >= 0; 0 if the prototypes are parameters themselves.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if an option is unknown, or features are no vectors.

    Departs from the paper: steps are on all prototypes at once, as many as fit a simulation. Where
    not all clients take part, prototypes of classes that nobody sent move, too.
    Source: Zhang, Liu, Hua, Cao, AAAI 2024, arXiv:2401.03230.
    """
    base = fedproto(task, fit, weighting="uniform", **options)
    how = PrototypeTraining(prototype_steps, prototype_lr, prototype_hidden, tau)

    def server_init(key: Key) -> WithGenerator:
        server = base.server_init(key)
        classes, width = server.of_classes.sums.shape
        key = jax.random.fold_in(key, 1)
        params = prototype_parameters(key, classes, width, prototype_hidden)
        return WithGenerator(server, params)

    def server_update(
        key: Key, server: WithGenerator, sent: ClassSums, round: Round
    ) -> WithGenerator:
        here = jax.vmap(lambda present, own: tree.where(present > 0, own, tree.zeros_like(own)))(
            round.present, sent
        )
        params = train_prototypes(how, server.params, here)
        known = jnp.maximum(server.base.of_classes.counts, here.counts.max(0))
        made = ClassSums(prototypes_of(params) * known[:, None], known)
        return WithGenerator(server.base._replace(of_classes=made), params)

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: base.client_init(key, server.base),
        broadcast=lambda server, number, round: base.broadcast(server.base, number, round),
        aggregate=ClassSums(stack, stack),
        server_update=server_update,
        predict=lambda server, own, x: base.predict(server.base, own, x),
    )
