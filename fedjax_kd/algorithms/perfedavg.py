"""Per-FedAvg: FedAvg of a model that each client adapts by one local step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.algorithms._maml import Hessian, maml_objective
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.batching import draw
from fedjax_kd.components.sharp_edges import difference_is_tiny, warns_of
from fedjax_kd.core import Algorithm, Batch, Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.local import Fit, Fitted, Weighting
from fedjax_kd.losses.objectives import Objective, whole_gradient
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(difference_is_tiny)
def perfedavg(
    task: Task,
    fit: Fit,
    *,
    alpha: Scalar = 0.01,
    hessian: Hessian = "HF",
    delta: Scalar = 1e-3,
    weighting: Weighting = "uniform",
    **options: Any,
) -> Algorithm:
    """Per-FedAvg: a model good after one local step (Fallah et al., 2020).

    Against FedAvg: the local gradient; a client adapts before it is evaluated.
    Down: the model. Up: its change. Keeps: nothing.

        g = grad f(w - alpha * grad f(w; D); D')
        d = (grad f(w + delta * g; D'') - grad f(w - delta * g; D'')) / (2 * delta)
        w = w - client_lr * (g - alpha * d)

    D' is the batch of ``fit``; D and D'' are drawn from all examples, independently of it.
    Equals FedAvg when ``alpha == 0``, given the same ``weighting``.

    Args:
      task: the model and its loss.
      fit: local training; its ``client_lr`` is the paper's beta.
      alpha: learning rate of the adapting step on all of a client's examples, >= 0.
      hessian: "FO" leaves d out, "HF" is above, "exact" is the Hessian at D'' times g.
      delta: of the difference, > 0; in float32 not below 1e-4.
      weighting: how clients vote; uniformly in the paper.

    Raises:
      ValueError: if an option is unknown or out of its range.

    Departs from the paper: nothing known. There is no code of the authors.
    Source: Fallah, Mokhtari, Ozdaglar, NeurIPS 2020, arXiv:2002.07948.
    """
    check_choice("hessian", hessian, Hessian)

    def run(key: Key, model: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
        def more(batch: Batch, key: Key) -> tuple[Batch, Batch]:
            seeds, size = jax.random.bits(key, (2,), jnp.uint32), len(batch.mask)
            first, third = (draw(s, jnp.int32(0), data.size, size, "partial") for s in seeds)
            return data.take(*first), data.take(*third)

        return fit(key, model, data, maml_objective(loss, more, alpha, delta, hessian), round)

    def personalise(key: Key, server: GlobalModel, client: PyTree, data: Data) -> Variables:
        _, stats, grads = whole_gradient(task.loss, server.model, data, key)
        return Variables(tree.add_scaled(server.model.params, -alpha, grads), stats)

    def predict(server: GlobalModel, client: PyTree, x: PyTree) -> Array:
        return task.apply(client if isinstance(client, Variables) else server.model, x)[0]

    base = fedavg(task, fit._replace(run=run, options=None), weighting=weighting, **options)
    return base._replace(personalise=personalise, predict=predict, judged_by="clients")
