"""What is done with inputs before a model sees them: the same for bytes, whole numbers and floats.

Values are moved and scaled by statistics of the training rows, which are kept for each entry of the
last axis; then they are cut at ten deviations, since a feature that hardly varied in training has a
tiny deviation, and one that never varied has none (its scale is 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.data.arrays import named_arrays
from fedjax_kd.errors import InputError

Standardise = Literal["auto", "channel", "feature", "unit", "none"]

FARTHEST = 10.0  # deviations from the mean at which inputs are cut

_AT_ONCE = 1 << 22  # values whose moments are taken in double precision at a time
_FEW = 4  # means that a description names one by one


class InputMoments(NamedTuple):
    """Of the values along the last axis of some inputs, ``[D]`` each, float64."""

    entries: int  # values of each
    mean: Float[np.ndarray, " D"]
    squares: Float[np.ndarray, " D"]  # summed squared distances from the mean
    low: Float[np.ndarray, " D"]
    high: Float[np.ndarray, " D"]


class Statistics(NamedTuple):
    """Mean, standard deviation and range of inputs along their last axis, ``[D]`` each, float32."""

    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]
    low: Float[np.ndarray, " D"] | None  # None in stores that do not tell
    high: Float[np.ndarray, " D"] | None


def moments_of(x: NDArray[Any]) -> InputMoments:
    """The moments of inputs ``[N, ...]`` of at least one value.

    Example:
      >>> moments_of(np.array([[0, 1], [2, 1]], np.uint8)).mean.tolist()
      [1.0, 1.0]
    """
    values = x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1)
    each = max(_AT_ONCE // values.shape[1], 1)
    pieces = (values[first : first + each] for first in range(0, len(values), each))
    return reduce(merged_moments, map(_of_piece, pieces))


def _of_piece(values: NDArray[Any]) -> InputMoments:
    by_entry = values.T.astype(np.float64, order="C")  # sums along rows are fast and exact
    mean = by_entry.mean(axis=1)
    squares = np.square(by_entry - mean[:, None]).sum(axis=1)
    return InputMoments(len(values), mean, squares, by_entry.min(axis=1), by_entry.max(axis=1))


def merged_moments(a: InputMoments, b: InputMoments) -> InputMoments:
    """The moments of both.

    Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances, 1982.
    """
    count = a.entries + b.entries
    step = b.mean - a.mean
    return InputMoments(
        count,
        a.mean + step * (b.entries / count),
        a.squares + b.squares + step**2 * (a.entries * b.entries / count),
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
    )


def statistics_of(moments: InputMoments) -> Statistics:
    """Mean, deviation and range, rounded so that they do not depend on how sums were cut."""
    std = np.sqrt(moments.squares / moments.entries)
    told = (moments.mean, std, moments.low, moments.high)
    return Statistics(*(np.asarray(v, np.float32) for v in told))


def are_symbols(x: Any) -> bool:
    """Whether stored inputs, or their types, are numbers of symbols: whole, along one axis or none.

    Example:
      >>> are_symbols(np.zeros((5, 80), np.int32)), are_symbols(np.zeros((5, 80), np.uint8))
      (True, False)
    """
    return x.dtype == np.int32 and x.ndim <= 2


def kind_for(standardise: Standardise, x: Any, *, positions: bool) -> Standardise:
    """What "auto" stands for: "feature" for rows of values and for sequences, else "channel".

    Args:
      standardise: what was asked for.
      x: inputs, or their types.
      positions: whether each target belongs to a position of a sequence.
    """
    if standardise != "auto":
        return standardise
    if are_symbols(x):
        return "none"
    return "feature" if x.ndim <= 2 or (positions and x.ndim == 3) else "channel"


def scale_of(
    statistics: Statistics, kind: Standardise, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is subtracted, and what is divided by, ``[D]`` or ``[1]``; never 0.

    Args:
      statistics: of the training rows.
      kind: "channel", "feature" or "unit".
      shape: of one example; of one or two axes it has a single channel.
    """
    mean, std, low, high = statistics
    if kind == "unit":
        if low is None or high is None:
            raise InputError(
                "standardise is 'unit', but the store does not tell the range of its inputs: write "
                "it again, or take 'channel', 'feature' or 'none'."
            )
        least, most = low.min(keepdims=True), high.max(keepdims=True)
        return least, np.where(most > least, most - least, np.float32(1))
    if kind == "channel" and len(shape) < 3:
        centre = mean.mean(dtype=np.float64)
        spread = np.square(std, dtype=np.float64) + np.square(mean - centre)
        mean, std = (np.array([v], np.float32) for v in (centre, math.sqrt(spread.mean())))
    # Below this, values differ by rounding alone.
    info = np.finfo(np.float32)
    varies = std > np.maximum(info.eps * np.abs(mean), info.tiny)
    return mean, np.where(varies, std, np.float32(1))


def standardise(x: ArrayLike, *, mean: NDArray[Any], std: NDArray[Any]) -> Array:
    """``(x - mean) / std`` as float32 along the last axis, cut at ten on both sides."""
    values = jnp.asarray(x).astype(jnp.float32)
    shape = (1,) * (values.ndim - mean.ndim) + mean.shape
    return jnp.clip((values - mean.reshape(shape)) / std.reshape(shape), -FARTHEST, FARTHEST)


def as_floats(x: ArrayLike) -> Array:
    """Inputs as float32, as they are otherwise."""
    return jnp.asarray(x).astype(jnp.float32)


class Preparation(NamedTuple):
    """What is done with inputs."""

    prepare: Callable[[PyTree], PyTree]  # of a batch as stored
    says: str  # in words


def preparation(x: PyTree, how: Standardise, *, positions: bool = False) -> Preparation:
    """What is done with inputs like these training inputs: each array for itself.

    Args:
      x: training inputs ``[N, ...]``, one array or several.
      how: "channel" and "feature" subtract means and divide by deviations, over all but the last
        axis, or, of examples of one or two axes, "channel" over all values; "unit" maps the range
        of all values to [0, 1]; "none" leaves them; "auto" decides by their shape.
      positions: whether each target belongs to a position of a sequence.

    Example:
      >>> x = np.array([[0.0, 10.0], [2.0, 30.0]], np.float32)
      >>> done = preparation(x, "auto")
      >>> done.prepare(x).tolist(), done.says
      ([[-1.0, -1.0], [1.0, 1.0]],
       'floats, standardised by feature (means 1, 20; deviations 1, 10)')
    """

    def one(array: NDArray[Any]) -> Preparation:
        kind = kind_for(how, array, positions=positions)
        found = None if kind == "none" else statistics_of(moments_of(array))
        return prepared_by(found, kind, array)

    if isinstance(x, np.ndarray):
        return one(x)
    found = [(name, one(array)) for name, array in named_arrays("", x)]
    functions = jax.tree.unflatten(jax.tree.structure(x), [done.prepare for _, done in found])
    told = "; ".join(f"{name} {done.says}" for name, done in found)
    return Preparation(partial(_each, functions), told)


def _each(functions: PyTree, x: PyTree) -> PyTree:
    return jax.tree.map(lambda function, array: function(array), functions, x)


def prepared_by(statistics: Statistics | None, kind: Standardise, x: Any) -> Preparation:
    """What is done with one array of inputs.

    Args:
      statistics: of its training rows; None if nothing is to be subtracted.
      kind: of the preparation, not "auto".
      x: the array, or its type.
    """
    stored = "bytes" if x.dtype == np.uint8 else "floats" if x.dtype.kind == "f" else "numbers"
    if statistics is None or kind == "none":
        if are_symbols(x):
            return Preparation(jnp.asarray, "symbols, as they are")
        return Preparation(as_floats, f"{stored}, as they are")
    mean, std = scale_of(statistics, kind, x.shape[1:])
    prepare = partial(standardise, mean=mean, std=std)
    if kind == "unit":
        ends = f"{mean[0]:.3g}..{mean[0] + std[0]:.3g}"
        return Preparation(prepare, f"{stored}, {ends} mapped to [0, 1]")
    return Preparation(prepare, f"{stored}, standardised by {kind} ({_told(mean, std)})")


def _told(mean: NDArray[Any], std: NDArray[Any]) -> str:
    """Means and deviations in words."""
    if len(mean) > _FEW:
        return f"{len(mean)} means from {mean.min():.3g} to {mean.max():.3g}"
    shown = [", ".join(f"{v:.3g}" for v in values) for values in (mean, std)]
    many = "s" if len(mean) > 1 else ""
    return f"mean{many} {shown[0]}{'; ' if many else ', '}deviation{many} {shown[1]}"
