"""FedDF: on the server, the average learns from the clients' models on public inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.components.ensembles import uploads_of
from fedjax_kd.components.server_distillation import described, distil, elected, server_distillation
from fedjax_kd.core import Algorithm, Data, Key, PyTree, Round, Upload, Variables, stack
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(server_distillation, fedavg, needs_classes="FedDF distils classes")
def feddf_groups(
    tasks: Sequence[Task], fit: Fit, *, weighting: Weighting = "uniform", **options: Any
) -> tuple[Algorithm, ...]:
    """`feddf` of several architectures: the average of each learns from the models of all.

    Where no client of a group is in the cohort, its model learns from where it was.

    Args:
      tasks: a classifier of the same classes for each group of clients.
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: how the clients of a group vote on its average.
    """
    how, others = described(tasks, options)
    bases = [fedavg(task, fit, weighting=weighting, **others) for task in tasks]

    def server_init(key: Key) -> tuple[GlobalModel, ...]:
        keys = [key, *(jax.random.fold_in(key, g) for g in range(1, len(bases)))]
        return tuple(base.server_init(k) for base, k in zip(bases, keys, strict=True))

    def server_update(key: Key, servers: Any, update: PyTree, round: Round) -> tuple:
        changes = [update[f"group_{g}"] for g in range(len(tasks))]
        uploads = uploads_of(tasks, [server.model for server in servers], changes, round.votes)
        teachers, votes = elected(how, uploads, round)
        after = []
        for g, (upload, vote) in enumerate(zip(uploads, votes, strict=True)):
            change = tree.weighted_mean(upload.changes, vote)
            server = bases[g].server_update(key, servers[g], change, round)
            server = tree.where(vote.sum() > 0, server, servers[g])
            learner = tasks[g], server.model
            learnt = distil(how, jax.random.fold_in(key, g), learner, teachers, round)
            after.append(server._replace(model=learnt))
        return tuple(after)

    def group(g: int, base: Algorithm) -> Algorithm:
        def client_update(
            key: Key, received: Variables, client: PyTree, data: Data, round: Round
        ) -> tuple[Upload, PyTree]:
            upload, client = base.client_update(key, received, client, data, round)
            return upload._replace(message={f"group_{g}": upload.message}), client

        return base._replace(
            server_init=server_init,
            broadcast=lambda servers, number, round: servers[g].model,
            client_update=client_update,
            aggregate=stack,
            server_update=server_update,
            predict=lambda servers, client, x: base.predict(servers[g], client, x),
        )

    return tuple(group(g, base) for g, base in enumerate(bases))


@extends(feddf_groups)
def feddf(task: Task, fit: Fit, **options: Any) -> Algorithm:
    """FedDF: the average learns the joint predictions of the clients' models (Lin et al., 2020).

    Against FedAvg: the server keeps all uploads of a round, and trains the average further.
    Down: the model. Up: its change. Keeps: nothing.

        w_k = w + Delta_k;  w = w + server_lr * sum_k v_k Delta_k / sum_k v_k
        p = softmax(mean_k f(x; w_k) / tau)               on public inputs x, k in the cohort
        w = w - eta_j Adam(clip(grad mean_x KL(p || softmax(f(x; w) / tau))))    distil_steps times

    Equals FedAvg with ``weighting="uniform"`` when ``distil_steps == 0``.

    Args:
      task: a classifier and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.

    Raises:
      MissingError: if there are no public inputs, or no labelled examples that an option needs.
      ValueError: if an option is out of its range.

    Departs from the paper: 500 steps by default, not 10,000. The average itself may be the best
    student, an option of the authors' code; that also drops models far below the mean of the
    others, and lets a trained generator live on.
    Source: Lin, Kong, Stich, Jaggi, NeurIPS 2020, arXiv:2006.07242.
    """
    return feddf_groups([task], fit, **options)[0]
