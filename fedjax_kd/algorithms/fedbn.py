"""FedBN: FedAvg of all but the normalisation layers, which stay with the clients."""

from __future__ import annotations

from typing import Any, Literal

from fedjax_kd.algorithms._partial import fedavg_without
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import normalisation
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Layers = Literal["batch", "all"]


@extends(fedavg, network={"model": "resnet8", "model_options": {"norm": "batch"}})
def fedbn(
    task: Task,
    fit: Fit,
    *,
    layers: Layers = "batch",
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """FedBN: each client keeps its own batch normalisation (Li et al., 2021).

    Against FedAvg: a part of the model does not travel; all of it is trained.
    Down: the model without normalisation layers. Up: its change. Keeps: those layers, scale, bias
    and running statistics.

        phi_k, BN_k = fit((phi, BN_k), client k)
        phi = phi + server_lr * mean(phi_k - phi)

    Equals FedAvg when one client is alone.

    A client that was never in a cohort, and any newcomer, has the initial normalisation, with mean
    0 and variance 1, which fits few features: judge FedBN by its clients' own models.

    Args:
      task: a model with normalisation layers; they are known by the type of the Flax module.
      fit: local training, from `fedjax_kd.local.local_training`.
      layers: which stay at home: "batch" normalisation, or "all" kinds, of batch, layer, group,
        instance and root mean square.
      weighting: how clients vote; uniformly in the paper, where all clients are of one size.

    Raises:
      ValueError: if ``layers`` or ``weighting`` is unknown, or the model has no such layer.

    Departs from the paper: nothing known. The authors' code knows the layers by "bn" in their
    names, and so shares the normalisation of a ResNet's shortcuts, which have other names.
    Source: Li, Jiang, Zhang, Kamp, Dou, ICLR 2021, arXiv:2102.07623.
    """
    advice = "batch normalisation only, as in the paper, or every kind of normalisation."
    check_choice("layers", layers, Layers, advice)
    part = normalisation(task, *(["batch"] if layers == "batch" else []))
    return fedavg_without(task, fit, part, weighting=weighting, **options)
