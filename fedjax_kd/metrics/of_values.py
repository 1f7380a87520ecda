"""Metrics of values: regression."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from fedjax_kd.losses import unit
from fedjax_kd.metrics.metric import Metric, mean_of, ratio


def _distance(outputs: Array, y: Array) -> Array:
    errors = jnp.abs(outputs - unit(y).astype(outputs.dtype))
    return errors.reshape(len(errors), -1).mean(1)


mae = mean_of(
    _distance, larger_is_better=False, about="The mean absolute error, in the unit of the targets."
)


def _squares(
    outputs: Float[Array, "N ..."], y: Float[Array, "N ..."], mask: Float[Array, " N"]
) -> tuple[Array, Array]:
    """Of each row and value: the squared error, and the squared distance from the mean."""
    weights = mask.astype(jnp.float32)[:, None]
    targets = unit(y).astype(jnp.float32).reshape(len(y), -1)
    errors = targets - outputs.astype(jnp.float32).reshape(targets.shape)
    mean = (weights * targets).sum(0, keepdims=True) / jnp.maximum(weights.sum(), 1.0)
    return weights * errors**2, weights * (targets - mean) ** 2


def _explained(sums: Any) -> NDArray[np.float64]:
    left, around = (np.asarray(part, np.float64) for part in sums)
    return (1 - ratio(left, around)).mean(-1)


r2 = Metric(
    _squares,
    _explained,
    of_all=True,
    about="The coefficient of determination, the mean over the values; NaN if one is constant.",
)
