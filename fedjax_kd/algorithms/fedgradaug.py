"""FedGradAug: FedAvg whose networks teach their own narrow parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.model_parts import classifier
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective, sum_of
from fedjax_kd.nn.narrow import check_separate, narrow
from fedjax_kd.nn.resize import dealt, resized
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedGradAug distils classes")
def fedgradaug(
    task: Task,
    fit: Fit,
    *,
    mu: Scalar = 1.0,
    width: Scalar = 0.25,
    subnets: int = 3,
    resolutions: tuple[int, ...] = (),
    **options: Any,
) -> Algorithm:
    """GradAug as local regularisation, a comparison of FedAlign's (Mendieta et al., 2022).

    Against FedAvg: the local loss, which costs ``subnets`` more passes.
    Down: the model. Up: its change. Keeps: nothing.

        v_1 = width;  v_i ~ U(width, 1) for the other subnets, once a batch
        loss_k(w) + mu * sum_i mean_x KL(f(x; w) || f_{v_i}(resized x; w))

    f_v has the first ``v * C`` channels of every layer. f(x; w) in the sum is constant. Narrow
    passes normalise by their own batch statistics and move no running ones.

    Equals FedAvg when ``mu == 0``.

    Args:
      task: a network with ``features``, and its loss.
      fit: local training, from `fedjax_kd.local.local_training`.
      mu: weight of the distillation, >= 0; the paper uses 1.
      width: the smallest width, in (0, 1); the paper uses 0.25.
      subnets: narrow passes a batch, >= 1; the paper uses 3.
      resolutions: sides of the images that narrow networks see, in pixels, each >= 1; the
        paper's are 32, 28, 24 and 20 for CIFAR, and need a network that reads any size, such as a
        ResNet. By default their own only.

    Raises:
      ValueError: if a number is out of its range, there are no logits from features, or a layer
        normalises over channels; later, if there are fewer rows in a batch than resolutions.

    Departs from the paper: channels beyond the width are set to zero, since shapes cannot be random
    in a compiled program: a narrow pass costs a full one. A batch's rows are dealt to the
    resolutions, in place of one drawn for them all: as likely, but batch statistics are of fewer.
    Source: Mendieta, Yang, Wang, Lee, Ding, Chen, CVPR 2022, arXiv:2111.14213; GradAug: Yang, Zhu,
    Chen, NeurIPS 2020, arXiv:2006.07989.
    """
    check_separate(task.norm_kinds)
    classify, seen, sides = classifier(task), task.unaugmented or task, resolutions or (0,)

    def objective(received: Variables) -> Objective:
        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            batch = batch._replace(x=task.augment(key, batch.x))
            teacher, stats = seen.apply(model, batch.x, key)
            supervised = losses.batch_mean(task.example_loss(teacher, batch.y), batch)

            def subnet(params: PyTree, drawn: tuple[Key, Array]) -> Array:
                whole, (key, v) = model._replace(params=params), drawn
                thin, rows = narrow(whole, v), dealt(key, len(batch.mask), len(sides))
                views = (resized(batch.x, *view) for view in zip(rows, sides, strict=True))
                features = [seen.features(thin, view, key) for view in views]
                taken, taught = jax.tree.map(lambda a: a[jnp.concatenate(rows)], (batch, teacher))
                logits = classify(whole, jnp.concatenate(features))
                values = losses.kl_divergence(logits, jax.lax.stop_gradient(taught))
                return losses.batch_mean(values, taken)

            key_widths, *keys = jax.random.split(jax.random.fold_in(key, 1), subnets + 1)
            drawn = jax.random.uniform(key_widths, (subnets,), jnp.float32).at[0].set(0)
            given = jnp.stack(keys), width + (1 - width) * drawn
            return supervised + mu * sum_of(subnet, model.params, given), stats

        return loss

    return fedavg(task, fit, objective=objective, **options)
