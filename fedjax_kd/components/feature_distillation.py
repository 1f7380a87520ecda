"""What re-identification needs of features: distillation, distances of outputs, predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.batching import draw
from fedjax_kd.core import Algorithm, Batch, Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.data.public_inputs import inputs_of
from fedjax_kd.losses import feature_cosine, feature_mse, masked_mean, normalised
from fedjax_kd.options import check_choice
from fedjax_kd.task import Task

FeatureVotes = Literal["examples", "uniform", "distance"]
Predicts = Literal["logits", "features"]

_BATCH = 32  # examples that stand for those of a client which trains on all at once


class FeatureDistillation(NamedTuple):
    """How features are distilled: steps of SGD, their rate, and inputs in each."""

    steps: int
    rate: Scalar
    batch: int
    normalise: bool  # each teacher's features, to length 1
    reader: str  # who needs public inputs, for the message


def mean_features(
    features: Float[Array, "K B D"], present: Float[Array, " K"], *, normalise: bool
) -> Float[Array, "B D"]:
    """What a student is to see: the mean over the teachers that are present.

    Example:
      >>> seen, present = jnp.array([[[3.0, 4.0]], [[9.0, 9.0]]]), jnp.array([1.0, 0.0])
      >>> mean_features(seen, present, normalise=True)
      Array([[0.6, 0.8]], dtype=float32)
    """
    return tree.weighted_mean(normalised(features) if normalise else features, present)


def distil_features(
    how: FeatureDistillation,
    key: Key,
    features: Callable[[Variables, PyTree], Array],
    models: tuple[Variables, Variables],
    round: Round,
) -> Variables:
    """The student after it has learnt, on the round's public inputs, from its teachers.

    Args:
      how: it learns.
      key: consumed.
      features: ``(model, x) -> [B, ..., D]``, in evaluation mode, so that statistics stay.
      models: the student, and the teachers ``[K, ...]``.
      round: with public inputs; who is present in it, teaches.

    Raises:
      MissingError: if there are no public inputs.
    """
    (student, teachers), inputs = models, inputs_of(round, how.reader)

    def step(i: Any, params: PyTree) -> PyTree:
        own_key = jax.random.fold_in(key, jnp.asarray(i, jnp.int32))
        x = inputs.draw(own_key, how.batch)
        seen = jax.lax.map(lambda model: features(model, x), teachers)
        target = mean_features(seen, round.present, normalise=how.normalise)

        def loss(params: PyTree) -> Array:
            return feature_mse(features(Variables(params, student.stats), x), target).mean()

        return tree.add_scaled(params, -how.rate, jax.grad(loss)(params))

    return student._replace(params=jax.lax.fori_loop(0, how.steps, step, student.params))


def some_of(key: Key, data: Data, count: int) -> Batch:
    """A random batch of a client's examples; of 32 if ``count`` is 0."""
    seed = jax.random.bits(key, dtype=jnp.uint32)
    return data.take(*draw(seed, jnp.int32(0), data.size, count or _BATCH, "partial"))


def output_distance(task: Task, models: tuple[Variables, Variables], batch: Batch) -> Array:
    """The mean over a batch of one minus the cosine between two models' logits."""
    before, after = (task.apply(model, batch.x)[0] for model in models)
    # Rounding may make a cosine larger than 1, but a vote must not be negative.
    return jnp.maximum(masked_mean(feature_cosine(after, before), batch.mask), 0)


def predicting(
    algorithm: Algorithm, predicts: Predicts, features: Callable[..., Array]
) -> Algorithm:
    """The algorithm, evaluated by its logits or by ``features(server, client, x)``, without a loss.

    Features are of the body, which the server has, so that it is judged.
    """
    check_choice("predicts", predicts, Predicts)
    if predicts == "logits":
        return algorithm

    def no_loss(outputs: Array, y: PyTree) -> Array:
        return jnp.full(len(outputs), jnp.nan, outputs.dtype)

    return algorithm._replace(predict=features, score=no_loss, judged_by="server")
