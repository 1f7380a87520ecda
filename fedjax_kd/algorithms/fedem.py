"""FedEM: every client's examples come from a mixture, each component of which has a model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.clusters import check_starts, several
from fedjax_kd.components.mixtures import log_mixture_of, mixture_logits, mixture_loss
from fedjax_kd.components.model_parts import everything
from fedjax_kd.core import Algorithm, Data, Key, Round, Upload, Variables
from fedjax_kd.local import Fit, Weighting, local_change
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedEM mixes the probabilities of classes")
def fedem(
    task: Task,
    fit: Fit,
    *,
    components: int = 3,
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedEM: expectation-maximisation of a mixture of models (Marfoq et al., 2021).

    Against FedAvg: there are M models; examples have weights in the local loss of each of them.
    Down: M models. Up: the changes of all. Keeps: the logarithms of its mixture, [M].

        q_sm ~ pi_km exp(-loss(w_m; x_s, y_s))        sum_m q_sm = 1; w_m as received
        pi_km = mean_s q_sm
        Delta_km = fit(w_m, client k) - w_m            of the loss mean_s q_sm loss(w; x_s, y_s)
        w_m = w_m + server_lr * sum_k n_k Delta_km / sum_k n_k
        p_k(x) = sum_m pi_km softmax(f(x; w_m))

    Mixtures start uniform. Before a client is evaluated it finds pi_k once more for the models as
    they are, and so does whoever took no part in training.

    Equals FedAvg when ``components == 1``.

    Args:
      task: a classifier and its loss; the initial models differ by what its ``init`` draws.
      fit: local training, from `fedjax_kd.local.local_training`. A batch is for all models; so is
        ``clip_norm``, of their gradients together.
      components: number of models, M, >= 1; the paper uses 3.
      weighting: how clients vote on the models.

    Raises:
      ValueError: if a number is out of its range, or all models would start alike.

    Departs from the paper: q_sm is of the examples without augmentation. Where not all clients are
    in a cohort, the authors' code averages in the old model for each of the others: that is
    ``server_lr`` times the share of those who are.
    Source: Marfoq, Neglia, Bellet, Kameni, Vidal, NeurIPS 2021, arXiv:2108.10252.
    """
    check_starts(task, everything(task), components)
    mixed = task._replace(init=several(task.init, components))
    base, change_by = (
        fedavg(mixed, fit, weighting=weighting, **options),
        local_change(fit, weighting),
    )

    def client_update(
        key: Key, received: Variables, log_mixture: Array, data: Data, round: Round
    ) -> tuple[Upload, Array]:
        loss = mixture_loss(task, received, log_mixture)
        upload, _ = change_by(key, received, data, loss, round)
        return upload, log_mixture_of(task, received, log_mixture, data)

    return base._replace(
        client_init=lambda key, server: jnp.zeros(components),
        client_update=client_update,
        predict=lambda server, log_mixture, x: mixture_logits(task, server.model, log_mixture, x),
        personalise=lambda key, server, log_mixture, data: log_mixture_of(
            task, server.model, log_mixture, data
        ),
        judged_by="clients",
        traits=lambda server, log_mixture: {"mixture": jax.nn.softmax(log_mixture)},
    )
