"""Mime: MimeLite whose local gradients are corrected to the mean of all clients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.algorithms._controls import Controlled
from fedjax_kd.algorithms._optimised import ChangeAndGradient, optimised_fedavg
from fedjax_kd.components.corrections import with_gradient_at
from fedjax_kd.components.sharp_edges import checked_too, last_round_asks
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Upload, Variables, Wire, mean
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.losses.objectives import whole_gradient
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(optimised_fedavg)
def mime(task: Task, fit: Fit, *, weighting: Weighting = "uniform", **options: Any) -> Algorithm:
    """Mime: local steps that mimic those of one machine (Karimireddy et al., 2021).

    Against FedAvg: every second round trains, after one that asks for gradients; a correction of
    every local gradient, which costs two; the local optimiser, whose state s is the server's.
    Down: the model; to train also s and c. Up: a gradient, or the model's change. Keeps: nothing.

        c = mean(grad f_k(w))                                   rounds 0, 2, 4, ...
        y = y - U(grad f(y; B) - grad f(w; B) + c; s)           rounds 1, 3, 5, ..., from y = w
        w = w + server_lr * mean(y - w);  s = V(c; s)

    where U is the step of the optimiser, in which s stays as it is, and V its next state.

    It is never FedAvg; with one whole-batch step of plain SGD two rounds are one of FedSGD.

    Args:
      task: the model and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      weighting: how clients vote on the model and on the gradient.

    Raises:
      ValueError: if a choice is unknown, or ``fit`` has another optimiser.
      TypeError: if ``base_opt`` is no function of the learning rate.

    Departs from the paper: its round is two here, of two cohorts, so that c may be of other clients
    than those who train. Schedules count both. Optimisers are as `mimelite` says.
    Source: Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, NeurIPS 2021, arXiv:2008.03606.
    """
    base, change_by = optimised_fedavg(task, fit, weighting=weighting, **options)
    vote = voting(weighting)

    def server_init(key: Key) -> Controlled:
        server = base.server_init(key)
        return Controlled(server, tree.zeros_like(server.base.model.params))

    def client_update(
        key: Key, received: Controlled, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        model = received.base.base

        def ask() -> Upload:
            loss, _, slope = whole_gradient(task.loss, model, data, key)
            message = Variables(slope, tree.sub(model.stats, model.stats))
            metrics = {"loss": loss.astype(jnp.float32), "steps": jnp.int32(0)}
            return Upload(message, vote(data), metrics, _down(model))

        def learn() -> Upload:
            loss = with_gradient_at(task.loss, model, received.control)
            return change_by(key, received.base, data, loss, round)._replace(wire=_down(received))

        # The round's number is the same for all clients, so that only one branch runs.
        return jax.lax.cond(round.number % 2 == 0, ask, learn), client

    def server_update(key: Key, server: Controlled, update: Variables, round: Round) -> Controlled:
        change = ChangeAndGradient(update, server.control)
        learnt = server._replace(base=base.server_update(key, server.base, change, round))
        return tree.where(round.number % 2 == 0, server._replace(control=update.params), learnt)

    return base._replace(
        server_init=server_init,
        broadcast=lambda server, number, round: Controlled(
            base.broadcast(server.base, number, round), server.control
        ),
        client_update=client_update,
        aggregate=mean,
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, client, x),
        check=checked_too(base, last_round_asks),
    )


def _down(received: Any) -> Wire:
    return Wire(down=jnp.asarray(tree.num_bytes(received), jnp.int32))
