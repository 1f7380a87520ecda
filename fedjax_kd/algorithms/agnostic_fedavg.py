"""Agnostic FedAvg: domains whose loss is large count more and more."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import agnostic
from fedjax_kd.components.agnostic import DomainChange, DomainOf, WeighedModel, WeighingServer
from fedjax_kd.components.pooling import summed
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Scalar, Upload, mean, stack
from fedjax_kd.local import Fit, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective", "weighting"])
def agnostic_fedavg(
    task: Task,
    fit: Fit,
    *,
    population: int,
    domain_lr: Scalar = 0.1,
    window: int = 1,
    domains: int = 0,
    domain_of: DomainOf | None = None,
    **options: Any,
) -> Algorithm:
    """Agnostic FedAvg: the worst mixture of domains is to be good (Ro et al., 2021).

    Against FedAvg: examples weigh as the server says of their domain, which depends on its loss.
    Down: the model, and the weight of an example of each domain, or of the client's own.
    Up: its change, and sums of losses and of examples for each of them. Keeps: nothing.

        alpha_d = lambda_d / mean of N_d over the last ``window`` rounds
        beta_k = sum_d alpha_d N_kd
        Delta_k = change by the loss  sum_{j in batch} alpha_d(j) l_j / beta_k
        w = w + server_lr * sum_k beta_k Delta_k / sum_k beta_k
        lambda_d = lambda_d exp(domain_lr * L_d / N_d)    and divided by their sum

    L_d and N_d are the clients' sums of losses at the received w and of examples, together N_d.
    The loss is a sum: a step on B of a client's n_k examples is about B / n_k of FedAvg's.

    Equals FedAvg when ``domains == 1`` and steps are on all examples of a client.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      population: clients, >= 1, each of which is a domain if there are no others.
      domain_lr: learning rate of the domains' weights, >= 0; they start alike.
      window: rounds over which the examples of a domain are averaged, >= 1.
      domains: number of domains D, >= 0: 0 makes each client one, 1 takes all examples together,
        more are the labels unless ``domain_of`` says otherwise.
      domain_of: a batch to the domain of each example, 0 to D - 1; others have no weight.

    Raises:
      ValueError: if a number is out of its range, ``domain_of`` comes without ``domains``, or
        ``population`` is not that of the federation.
      TypeError: if labels are to be domains, but the targets are no classes.

    Departs from the paper: a domain without examples in a window has the N_d that it had last.
    Source: Ro, Chen, Mathews, Mohri, Suresh, 2021, arXiv:2104.02748.
    """
    base, change_by = fedavg(task, fit, **options), local_change(fit)
    in_batches = getattr(fit, "batch_size", 0) > 0
    member_of = agnostic.domain_function(domains, domain_of)

    def client_update(
        key: Key, received: WeighedModel, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        model, weights = received
        loss, count = agnostic.of_domains(task, model, data, member_of, len(weights))
        beta = (weights * count).sum()
        each = weights / jnp.where(beta > 0, beta, 1)
        objective = agnostic.weighted_sum(task, member_of, each, 0 if in_batches else data.size)
        upload, _ = change_by(key, model, data, objective, round)
        metrics = upload.metrics | {"loss": loss.sum() / jnp.maximum(count.sum(), 1)}
        return Upload(DomainChange(upload.message, loss, count), beta, metrics), client

    def server_update(
        key: Key, server: WeighingServer, update: DomainChange, round: Round
    ) -> WeighingServer:
        update = update if domains else agnostic.by_client(update, round, population)
        known = agnostic.reweighted(server.domains, update.loss, update.count, domain_lr)
        return WeighingServer(base.server_update(key, server.base, update.change, round), known)

    def server_init(key: Key) -> WeighingServer:
        return WeighingServer(base.server_init(key), agnostic.alike(domains or population, window))

    sums = summed if domains else stack
    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: agnostic.sent(server, None if domains else number),
        client_update=client_update,
        aggregate=DomainChange(mean, sums, sums),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
    )
