"""Metrics of several yes-or-no labels an example ``[B, L]``; -1 is unknown."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.losses import label_weights
from fedjax_kd.metrics.metric import Metric, mean_known, mean_of
from fedjax_kd.metrics.of_classes import f1_of
from fedjax_kd.metrics.ranking import area_under_curve, average_precision, precisions, wins


def _parts(
    logits: Float[Array, "B L"], y: Int[Array, "B L"], mask: Float[Array, " B"]
) -> Float[Array, "B 3 L"]:
    weights = label_weights(y, mask.astype(jnp.float32))
    true, guess = (y > 0).astype(jnp.float32), (logits > 0).astype(jnp.float32)
    return jnp.stack([weights * true * guess, weights * guess, weights * true], 1)


label_accuracy = mean_of(
    lambda logits, y: (logits > 0) == (y > 0),
    about="The share of labels whose probability is above a half just where they hold.",
)

label_f1 = Metric(
    _parts,
    lambda sums: mean_known(f1_of(sums)),
    about="The mean of F1 over the labels that occur among targets or predictions.",
)


def _of_known(logits: Array, y: Array) -> tuple[Array, Array]:
    """Scores and targets as floats."""
    return logits.astype(jnp.float32), (y > 0).astype(jnp.float32)


label_auc = Metric(
    lambda logits, y, mask: wins(*_of_known(logits, y), label_weights(y, mask)),
    area_under_curve,
    of_all=True,
    about="The area under the ROC curve of each label, averaged over the labels.",
)

mean_average_precision = Metric(
    lambda logits, y, mask: precisions(*_of_known(logits, y), label_weights(y, mask)),
    average_precision,
    of_all=True,
    about="The average precision of each label, averaged over the labels.",
)
