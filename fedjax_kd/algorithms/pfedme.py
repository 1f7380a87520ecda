"""pFedMe: clients pull the global model towards models of their own, which they find near it."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.sharp_edges import inner_spring_is_stiff, warns_of
from fedjax_kd.core import Algorithm, Batch, Data, Key, PyTree, Round, Scalar, Upload, Variables
from fedjax_kd.local import Fit, Weighting, voting
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

InnerStart = Literal["last", "model"]


@extends(fedavg, fixes=["objective"])
@warns_of(inner_spring_is_stiff)
def pfedme(
    task: Task,
    fit: Fit,
    *,
    lamb: Scalar = 15.0,
    inner_steps: int = 5,
    inner_lr: Scalar = 0.05,
    decay: Scalar = 0.0,
    inner_start: InnerStart = "last",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """pFedMe: personal models by Moreau envelopes of the clients' losses (Dinh et al., 2020).

    Against FedAvg: the local gradient, which takes ``inner_steps`` others to find; a model is kept.
    Down: the model. Up: its change. Keeps: the client's own model theta, params and stats.

        theta = theta - inner_lr * (grad f(theta; B) + lamb * (theta - w_k) + decay * theta)
        w_k = w_k - client_lr * lamb * (w_k - theta)      after inner_steps of these, on a batch B
        w = w + server_lr * mean(w_k - w)

    theta starts at w in each round, and a client predicts by the last one.

    Equals FedAvg when ``inner_steps == 1``, ``lamb * inner_lr == 1``, ``decay == 0`` and
    ``inner_start == "model"``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training: ``client_lr`` is the paper's eta (0.005), its steps are R (20); with
        ``batch_size=0``, theta is found anew on each 64 examples.
      lamb: strength of the proximal term, > 0; the paper has 15.
      inner_steps: steps of theta on each batch, the paper's K, >= 1.
      inner_lr: their learning rate, >= 0. Unstable if ``lamb`` times it reaches 2.
      decay: L2 regularisation of theta, >= 0; the authors' code has 0.001.
      inner_start: theta starts in a local step from the "last" one, or from the local "model".
      weighting: how clients vote; uniformly in the paper, by their examples in the authors' code.

    Raises:
      ValueError: if ``inner_start`` is unknown, or a number is out of its range.

    Departs from the paper: theta takes a given number of steps, as in the authors' code, and not as
    many as reach an accuracy. ``server_lr`` is the paper's beta. Clients outside the cohort do not
    train; in the authors' code all train and some are heard.
    Source: Dinh, Tran, Nguyen, NeurIPS 2020, arXiv:2006.08848.
    """
    check_choice("inner_start", inner_start, InnerStart)
    base, vote = fedavg(task, fit, weighting=weighting, **options), voting(weighting)

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        centre = jax.lax.stop_gradient(model.params)
        last: Variables = model.stats  # what no optimiser steps
        begin = last if inner_start == "last" else Variables(centre, last.stats)

        def step(i: Array, carry: tuple[Variables, Array]) -> tuple[Variables, Array]:
            own = carry[0]
            value, stats, slope = gradient(task.loss, own, batch, jax.random.fold_in(key, i))
            slope = tree.add_scaled(slope, lamb, tree.sub(own.params, centre))
            slope = tree.add_scaled(slope, decay, own.params)
            return Variables(tree.add_scaled(own.params, -inner_lr, slope), stats), value

        zero = jnp.zeros((), jax.eval_shape(task.loss, begin, batch, key)[0].dtype)
        own, value = jax.lax.fori_loop(0, inner_steps, step, (begin, zero))
        # The gradient of a linear term is the step, whatever the local optimiser is.
        pull = tree.dot(tree.sub(centre, own.params), tree.sub(model.params, centre))
        return value + lamb * pull, own

    def client_update(
        key: Key, received: Variables, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        fitted = fit(key, Variables(received.params, received), data, objective, round)
        params, own = fitted.model
        change = tree.sub(Variables(params, own.stats), received)
        return Upload(change, vote(data), fitted.metrics), own

    return base._replace(
        client_init=lambda key, server: server.model,
        client_update=client_update,
        predict=lambda server, own, x: task.apply(own, x)[0],
        judged_by="clients",
    )
