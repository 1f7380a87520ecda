"""Fine-tuned evaluation: the model of each client after steps of its own, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Batch, Client, Data, Key, PyTree, Round, Server, Variables
from fedjax_kd.errors import InputTypeError
from fedjax_kd.local import Fit
from fedjax_kd.losses import batch_mean


def with_finetuning(algorithm: Algorithm, fit: Fit) -> Algorithm:
    """The algorithm, with a further evaluation of each client after local steps of its own.

    Training is as before. At every evaluation each client trains all floats of server and client
    that its predictions read, statistics of normalisation apart, on its own training examples, and
    is measured on its own test rows: columns such as ``finetuned_accuracy_mean``, beside
    ``personal_accuracy_mean``, where the method has personal models, or else
    ``client_accuracy_mean``, which are those before these steps. Nobody keeps what was trained.

    The model is in evaluation mode meanwhile: no dropout, no augmentation, BatchNorm by its running
    statistics. The learning rate is that of the first round. It goes outermost, around wrappers.

    Equals the evaluation before where a client has no training examples.

    Args:
      algorithm: of any kind whose predictions have a gradient.
      fit: the steps of a client, such as ``local_training(steps=5, client_lr=0.01)``.

    Raises:
      TypeError: if ``fit`` is no local training.

    Source: "accuracy before and after local training" of pfl-research and the fine-tuned models of
    PFLlib; Yu, Bagdasaryan, Shmatikov, 2020, arXiv:2002.04758.
    """
    if not isinstance(fit, Fit):
        raise InputTypeError(
            f"fit is {fit!r}, but must say how clients train: give local_training(steps=5)."
        )
    return algorithm._replace(finetune=fit)


def tuned(algorithm: Algorithm, score: Callable[[Array, PyTree], Array] | None) -> Algorithm:
    """The algorithm whose ``personalise`` also trains, as its ``finetune`` says.

    Args:
      algorithm: as it is, if it does not ask for that.
      score: the loss of each example or target.
    """
    if algorithm.finetune is None or score is None:
        return algorithm

    def personalise(key: Key, server: Server, client: Client, data: Data) -> Any:
        client = algorithm.personalise(key, server, client, data)
        leaves, structure = jax.tree.flatten((server, client))
        trained = _trained(algorithm, server, client, data.x)

        def whole(params: list[Array]) -> tuple[Server, Client]:
            new = iter(params)
            both = [next(new) if own else leaf for own, leaf in zip(trained, leaves, strict=True)]
            return jax.tree.unflatten(structure, both)

        def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            outputs = algorithm.predict(*whole(model.params), batch.x)
            return batch_mean(score(outputs, batch.y), batch), ()

        start = [leaf for own, leaf in zip(trained, leaves, strict=True) if own]
        key = jax.random.fold_in(key, 1)
        fitted = algorithm.finetune(key, Variables(start), data, objective, Round.first())
        return whole(fitted.model.params)

    return algorithm._replace(
        personalise=personalise,
        predict=lambda server, both, x: algorithm.predict(both[0], both[1], x),
        traits=None,
    )


def _trained(algorithm: Algorithm, server: Server, client: Client, x: PyTree) -> list[bool]:
    """Of each leaf of server and client, whether it is a float that predictions read."""
    few = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), x)
    read = tree.reads(lambda both, x: algorithm.predict(both[0], both[1], x), (server, client), few)
    paths = jax.tree_util.tree_leaves_with_path((server, client))
    return [
        used and jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and not _is_statistic(path)
        for used, (path, leaf) in zip(jax.tree.leaves(read), paths, strict=True)
    ]


def _is_statistic(path: tuple[Any, ...]) -> bool:
    """Whether a leaf belongs to the ``stats`` of a model."""
    return any(getattr(step, "name", None) == "stats" for step in path)
