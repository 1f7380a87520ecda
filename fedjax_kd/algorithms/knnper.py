"""kNN-Per: FedAvg's predictions, interpolated with those of a client's own nearest examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import GlobalModel, fedavg
from fedjax_kd.batching import draw, in_pieces
from fedjax_kd.components.model_parts import head_types, in_one_pass
from fedjax_kd.components.neighbours import Datastore, neighbour_probabilities
from fedjax_kd.core import Algorithm, Client, Data, Key, PyTree, Scalar, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import MICROBATCH
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="kNN-Per counts the classes of neighbours")
def knnper(
    task: Task,
    fit: Fit,
    *,
    lamb: Scalar = 0.5,
    k: int = 10,
    scale: Scalar = 1.0,
    stored: int = 500,
    **options: Any,
) -> Algorithm:
    """kNN-Per: a client's nearest own examples have a say in predictions (Marfoq et al., 2022).

    Against FedAvg: predictions of clients; before an evaluation each stores its features.
    Down: the model. Up: its change. Keeps: nothing; for an evaluation features ``[E, D]`` and
    labels of E = ``stored`` examples.

        p(x) = lamb * p_knn(features(x)) + (1 - lamb) * softmax(model(x))
        p_knn = classes of the k nearest stored examples, weighed by exp(-|z - z_i|^2 / (D scale))

    Equals FedAvg in its global model, and wholly when ``lamb == 0``.

    Args:
      task: a classifier with ``features`` of one vector an example, whose shape it knows.
      fit: local training, from `fedjax_kd.local.local_training`.
      lamb: share of the neighbours in predictions, in [0, 1].
      k: neighbours of a prediction, >= 1; fewer if a client has fewer examples.
      scale: of the distances, > 0.
      stored: examples that a client stores at most, >= 1; of more, a random choice.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if the task does not give features and logits in one pass, or does not know its
        examples, or features are not one vector an example.

    Departs from the paper: weights are of squared distances over the width, as in the authors'
    code, and numbers are the same for all clients, who may there choose them by a validation set.
    A client without labelled examples predicts by the model alone.
    Source: Marfoq, Neglia, Vidal, Kameni, ICML 2022, arXiv:2111.09360.
    """
    both, (features, logits) = in_one_pass(task, "kNN-Per"), head_types(task)
    if len(features.shape) != 2:
        raise InputError(
            f"`features` have the shape {features.shape}, but kNN-Per compares one vector an "
            "example: let `features` return an array [B, D]."
        )
    classes = logits.shape[-1]

    def personalise(key: Key, server: GlobalModel, client: Client, data: Data) -> Variables:
        seed = jax.random.bits(key, dtype=jnp.uint32)
        batch = data.take(*draw(seed, jnp.int32(0), data.size, stored, "partial"))
        known = losses.label_weights(batch.y, batch.mask)
        known *= (data.size > 0).astype(known.dtype)
        seen = in_pieces(lambda x: both(server.model, x)[0], batch.x, MICROBATCH)
        # Statistics are what is measured: fine-tuned evaluation does not train them.
        return Variables((), Datastore(seen, batch.y, known))

    def predict(server: GlobalModel, client: PyTree, x: PyTree) -> Array:
        own, outputs, _ = both(server.model, x)
        if not isinstance(client, Variables):
            return outputs
        store = client.stats
        share = jnp.where(store.known.sum() > 0, jnp.asarray(lamb, outputs.dtype), 0)
        near = neighbour_probabilities(store, own, classes, k, scale).astype(outputs.dtype)
        mixed = share * near + (1 - share) * jax.nn.softmax(outputs)
        return jnp.log(jnp.maximum(mixed, jnp.finfo(mixed.dtype).tiny))

    return fedavg(task, fit, **options)._replace(
        personalise=personalise, predict=predict, judged_by="clients"
    )
