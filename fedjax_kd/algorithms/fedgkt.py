"""FedGKT: small networks on the clients and a large one on the server teach each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.components import split_client as cut
from fedjax_kd.components.model_checks import model_check
from fedjax_kd.components.model_parts import in_one_pass
from fedjax_kd.components.split_server import Answers, Upper, answer_to, upper_half
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, Variables, examples, stack
from fedjax_kd.local import Fit
from fedjax_kd.losses.mutual import MutualVariant
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(upper_half, fixes=["late"], needs_classes="FedGKT distils classes")
def fedgkt(
    task: Task,
    fit: Fit,
    *,
    alpha: Scalar = 1.0,
    tau: Scalar = 3.0,
    variant: MutualVariant = "paper",
    **options: Any,
) -> Algorithm:
    """FedGKT: both sides of a split network teach each other (He, Annavaram, Avestimehr, 2020).

    Against FedAvg: no weights travel, and nothing is averaged. Labels leave the clients.
    Down: the server's logits [N, L] of the client's N = ``capacity`` rows, and a boolean.
    Up: features [N, ...], logits [N, L], labels [N] of rows, and their number. Keeps: its network.

        z_k, z = client k's and the server's logits of one example
        client: CE(z_k, y) + alpha * tau^2 KL(softmax(z / tau) || softmax(z_k / tau))
        server: CE(z, y) + alpha * tau^2 KL(softmax(z_k / tau) || softmax(z / tau))

    A newcomer has the cross-entropy alone. Evaluated is the server's network on own features.
    Equals local training, on the clients, when ``alpha == 0``: FedAvg, if one client is alone.

    Args:
      task: the clients' network; what its ``features`` return is sent, of any shape.
      fit: local training, from `fedjax_kd.local.local_training`.
      alpha: weight of the distillation, >= 0; the paper uses 1, the code's example 0.5.
      tau: its temperature, > 0; the paper uses 3.
      variant: "code": on the server ``alpha`` weighs the cross-entropy, teachers' probabilities
        have 1e-7 added, and answers are logits before the step on a batch, in training mode.

    Raises:
      ValueError: if a number is out of its range, or the task cannot be cut in two.

    Departs from the paper: absent clients keep their last answers; optimisers of clients start anew
    each round. Clients train on augmented examples, and send those as stored.
    Source: He, Annavaram, Avestimehr, NeurIPS 2020, arXiv:2007.14513.
    """
    both = in_one_pass(task, "a network cut in two")
    top = upper_half(task, late=variant == "paper", **options)
    own_side, other_side = (cut.labels_and_logits(t, tau, variant) for t in (task, top.task))

    def client_update(
        key: Key, received: Answers, model: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        own = cut.own_examples(data, len(received.logits))
        strength = jnp.where(received.known, alpha, 0.0)
        loss = cut.without_logits(cut.weighed(own_side, lambda ce, kl: ce + strength * kl))
        fitted = fit(key, model, own._replace(y=(own.y, received.logits)), loss, round)
        sent = cut.exchange(both, fitted.model, own)
        return Upload(sent, data.size.astype(jnp.float32), fitted.metrics), fitted.model

    def server_loss(ce: Array, kl: Array) -> Array:
        return kl + alpha * ce if variant == "code" else ce + alpha * kl

    def server_update(key: Key, server: Upper, sent: cut.Exchange, round: Round) -> Upper:
        return top.train(key, server, sent, round, cut.weighed(other_side, server_loss))

    return Algorithm(
        server_init=top.init,
        client_init=lambda key, server: task.init(jax.random.wrap_key_data(server.start)),
        broadcast=lambda server, number, round: answer_to(server, number),
        client_update=client_update,
        aggregate=stack,
        server_update=server_update,
        predict=lambda server, model, x: top.apply(server, task.features(model, x)),
        work=getattr(fit, "steps", examples),
        judged_by="clients",
        uploads="values",
        score=task.example_loss,
        check=model_check(task, fit),
    )


@extends(fedgkt)
def fedgkt_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fedgkt` of several clients' networks, whose features have one shape, and one server's."""
    return tuple(fedgkt(task, fit, **options) for task in tasks)
