"""A metric of predictions: sums of rows, which add over batches, clients and devices; their value.

Metrics have names; the sums of several, by name, are one tree, of which two are added leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.losses import value_weights

Tally = dict[str, PyTree]
"""By metric, what its values are made of: leaves ``[...]``, or ``[N, ...]`` of rows."""

RowValues = Callable[[Array, PyTree], Array]
"""(outputs ``[B, ...]``, targets) -> a number an example ``[B]``, or one a target ``[B, ...]``"""


class Sighting(NamedTuple):
    """Targets of test rows where more than the identity decides what a retrieval counts."""

    identity: Array
    camera: Array | None = None  # by which each was seen; None if that is not known
    query: Array | None = None  # 1 where a row is looked for, 0 where it may be found; None: both


def identities_of(y: PyTree) -> PyTree:
    """Targets as losses know them.

    Example:
      >>> identities_of(Sighting(jnp.array([3]), jnp.array([0]))), identities_of(jnp.array([3]))
      (Array([3], dtype=int32), Array([3], dtype=int32))
    """
    return y.identity if isinstance(y, Sighting) else y


@dataclass(frozen=True)
class Metric:
    """How good predictions are, as one number.

    Attributes:
      sums: ``(outputs [B, ...], targets, mask [B]) -> tree`` of what each row adds, leaves
        ``[B, ...]``; rows with mask 0 add nothing.
      value: the number, from sums of any leading axes, NaN where nothing was counted.
      larger_is_better: false for errors.
      of_all: whether a row's sums depend on the other rows, as ranks do: then ``sums`` is given all
        rows of the test set, or of a client, at once.
      of_sightings: whether ``sums`` takes a `Sighting` in place of identities, where that is known.
      about: in words.
    """

    sums: Callable[[Array, PyTree, Array], PyTree]
    value: Callable[[PyTree], NDArray[np.floating]]
    larger_is_better: bool = True
    of_all: bool = False
    of_sightings: bool = False
    about: str = ""


def mean_of(values: RowValues, *, larger_is_better: bool = True, about: str = "") -> Metric:
    """The mean over examples, or over targets where there are several an example.

    Targets of -1, where they are labels, count nothing.

    Args:
      values: ``(outputs [B, ...], targets) -> [B]`` or ``[B, ...]``.
      larger_is_better: false for errors.
      about: in words.

    Example:
      >>> within_one = mean_of(lambda outputs, y: jnp.abs(outputs[:, 0] - y) <= 1)
      >>> rows = within_one.sums(jnp.array([[1.0], [5.0]]), jnp.array([2.0, 2.0]), jnp.ones(2))
      >>> float(within_one.value(total_of(rows)))
      0.5
    """

    def sums(outputs: Array, y: PyTree, mask: Array) -> tuple[Array, Array]:
        found = jnp.asarray(values(outputs, y)).astype(jnp.float32)
        if found.shape[:1] != mask.shape:
            raise InputError(
                f"It gives an array of shape {found.shape} for {len(mask)} examples, but must give "
                f"a number for each of them, ({len(mask)},), or one a target: leave out the mean."
            )
        weights = value_weights(found, y, mask.astype(jnp.float32))
        # A row of filling may give anything, NaN included.
        found = jnp.where(weights > 0, found * weights, 0)
        return found.reshape(len(mask), -1).sum(1), weights.reshape(len(mask), -1).sum(1)

    return Metric(sums, lambda sums: ratio(*sums), larger_is_better, about=about)


def ratio(total: Any, count: Any) -> NDArray[np.float64]:
    """``total / count``, NaN where the count is 0."""
    count = np.asarray(count, np.float64)
    return np.asarray(total, np.float64) / np.where(count == 0, np.nan, count)


def mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis of what is no NaN; NaN if all is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(-1), known.sum(-1))


def as_metric(name: str, given: Metric | RowValues) -> Metric:
    """A metric, or the mean of a function of outputs and targets.

    Raises:
      ValueError: if the name cannot be part of a column's.
      TypeError: if it is neither.
    """
    if not name.isidentifier():
        raise InputError(
            f"The metric is called {name!r}, but its name becomes part of a column's: letters, "
            "digits and _ alone."
        )
    if isinstance(given, Metric):
        return given
    if not callable(given):
        raise InputTypeError(
            f"The metric {name} is a {type(given).__name__}, but must be a function (outputs, "
            "targets) -> a number an example, or a `fedjax_kd.metrics.Metric`."
        )
    return mean_of(given)


def sums_of(
    metrics: Mapping[str, Metric], outputs: Array, y: PyTree, mask: Float[Array, " B"]
) -> Tally:
    """What each row adds to the sums of several metrics, leaves ``[B, ...]``."""
    found: dict[Any, PyTree] = {}
    for metric in metrics.values():  # several may have the same sums, which are costly of ranks
        if (metric.sums, metric.of_sightings) not in found:
            targets = y if metric.of_sightings else identities_of(y)
            found[metric.sums, metric.of_sightings] = metric.sums(outputs, targets, mask)
    return {name: found[metric.sums, metric.of_sightings] for name, metric in metrics.items()}


def total_of(rows: PyTree) -> PyTree:
    """The sums of rows over their leading axis."""
    return jax.tree.map(lambda a: a.sum(0), rows)


def summary(metrics: Mapping[str, Metric], sums: Tally) -> dict[str, float]:
    """The value of each metric; NaN where nothing was counted."""
    return {name: float(metric.value(sums[name])) for name, metric in metrics.items()}
