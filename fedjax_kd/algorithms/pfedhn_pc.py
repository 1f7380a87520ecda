"""pFedHN-PC: pFedHN of the body of a network; every client has a head of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fedjax_kd.algorithms._generated import fedavg_of_made_models
from fedjax_kd.components.hypernet import hypernet_learner
from fedjax_kd.components.model_parts import Part, head
from fedjax_kd.core import Algorithm, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.local import Fit, Rate
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(hypernet_learner)
def pfedhn_pc(
    task: Task,
    fit: Fit,
    *,
    personal: Callable[[Variables], Part] | None = None,
    server_lr: Rate = 0.05,
    **options: Any,
) -> Algorithm:
    """pFedHN-PC: a hypernetwork makes the body of each client's model (Shamsian et al., 2021).

    Against FedAvg: a network of the server makes a body for each client; heads stay at home.
    Down: a body of the client's own, which is what ``features`` uses. Up: the body's change, all of
    them kept apart. Keeps: the head, and the client's number.

        theta_k = h(v_k; phi)
        theta'_k, omega_k = fit((theta_k, omega_k), client k)
        phi and V as in pFedHN, from Delta_k = theta_k - theta'_k

    Equals FedPer when ``hidden == 0``, ``start == "model"``, ``server_lr == 1``, neither momentum
    nor decay nor clipping act, and clients of FedPer vote uniformly.

    Args:
      task: a model with ``features`` that knows the shape of its examples.
      fit: local training of body and head at once.
      personal: the model's shapes -> booleans, one a value: what stays at home; by default all that
        the model uses after ``features``.
      server_lr: learning rate of the hypernetwork and the embeddings, > 0.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if an option is unknown or out of its range, the task does not know the shape of
        its examples, ``population`` is not that of the federation, or nothing is to be made.

    Departs from the paper: as pFedHN does. All heads start alike. In the authors' code the head has
    an optimiser of its own, whose momentum lasts from round to round, and is not clipped.
    Source: Shamsian, Navon, Fetaya, Chechik, ICML 2021, arXiv:2103.04628.
    """
    part = (
        head(task) if personal is None else personal(jax.eval_shape(task.init, jax.random.key(0)))
    )
    if all(jax.tree.leaves(part.params)):
        raise InputError(
            "All parameters are personal, so that the hypernetwork has nothing to make: take a "
            "network with a layer before the last one, or say what is `personal`."
        )
    return fedavg_of_made_models(task, fit, part, hypernet_learner(server_lr=server_lr, **options))
