"""FD: clients share the means of their logits, class by class, and no weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses, tree
from fedjax_kd.algorithms._partial import fedavg_without
from fedjax_kd.components import class_means
from fedjax_kd.components.model_parts import everything, output_types
from fedjax_kd.components.pooling import summed
from fedjax_kd.core import Algorithm, Batch, Data, Key, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, voting
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.task import Task


class WithTable(NamedTuple):
    """A client's model or the server, the sums that it sent or has, and from which round."""

    base: Any
    table: class_means.ClassSums
    number: Any


@checks_options
def fd(
    task: Task, fit: Fit, *, gamma: Scalar = 1.0, phi: class_means.Phi = "cross_entropy"
) -> Algorithm:
    """FD: the mean logits of each class teach other clients' examples of it (Jeong et al., 2018).

    Against FedAvg: clients keep their models and send mean logits, which are their teachers.
    Down: sums of mean logits G [L, L], of how many clients [L], of which round. Up: its mean logits
    [L, L], which of them there are [L]. Keeps: a model, and what it sent last.

        G_kc = mean over the other clients that have class c of their mean logits of it
        loss_k = task.loss + gamma * mean_x phi(f_k(x), G_ky)          where G_ky is known
        phi(z, G) = -sum_c softmax(G)_c log softmax(z)_c, or the mean squared difference

    Mean logits are those of the steps of a round; teachers are the clients of the last round that
    had any.

    It is never FedAvg: with ``gamma == 0`` every client trains alone.

    Args:
      task: a classifier of classes.
      fit: local training, from `fedjax_kd.local.local_training`.
      gamma: strength of distillation, >= 0.
      phi: "cross_entropy" of probabilities, "squared" differences of logits, or "pfllib": teachers
        include the client itself, their logits count as probabilities, and where none is known the
        client's own logits do.

    Raises:
      ValueError: if ``phi`` is unknown, or the task does not know the shape of its examples.

    Departs from the paper: nothing known. There is no code of the authors.
    Source: Jeong, Oh, Kim, Park, Bennis, Kim, 2018, arXiv:1811.11479.
    """
    check_choice("phi", phi, class_means.Phi)
    base, vote = fedavg_without(task, fit, everything(task)), voting("uniform")
    logits = output_types(task)
    nothing = class_means.no_vectors(logits.shape[-1], logits.shape[-1], logits.dtype)

    def client_update(
        key: Key, received: WithTable, own: WithTable, data: Data, round: Round
    ) -> tuple[Upload, WithTable]:
        is_among = (own.number == received.number) & (phi != "pfllib")
        teachers = tree.sub(received.table, tree.where(is_among, own.table, nothing))

        def distilled(model: Variables, batch: Batch, key: Key) -> tuple[Array, Array, Any]:
            z, stats = task.apply(model, batch.x, key)
            values = task.example_loss(z, batch.y)
            values += gamma * class_means.taught(phi, z, batch.y, teachers)
            return losses.batch_mean(values, batch), z, stats

        run = class_means.fit_and_collect(fit, nothing, distilled)
        fitted, seen = run(key, own.base, data, round)
        sent = class_means.as_one_each(seen)
        new = WithTable(fitted.model, sent, round.number)
        return Upload(sent, vote(data), fitted.metrics), new

    def untaught(base: Any) -> WithTable:
        return WithTable(base, nothing, jnp.int32(-1))

    return base._replace(
        server_init=lambda key: untaught(base.server_init(key)),
        client_init=lambda key, server: untaught(base.client_init(key, server.base)),
        broadcast=lambda server, number, round: server._replace(base=()),
        client_update=client_update,
        aggregate=class_means.ClassSums(summed, summed),
        server_update=lambda key, server, sums, round: WithTable(server.base, sums, round.number),
        predict=lambda server, own, x: task.apply(own.base, x)[0],
        uploads="values",
        needs_classes="FD averages the logits of each class",
    )
