"""Examples that are no client's: a part held out, another data set, noise, a generator."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.core import Data, Key, PyTree
from fedjax_kd.data.arrays import take_rows, types_shown
from fedjax_kd.data.dataset import Dataset, Examples, without_targets
from fedjax_kd.data.inputs import are_symbols
from fedjax_kd.data.pixels import stretched_pixels
from fedjax_kd.data.public_inputs import Generator, Noise, Public, Stored
from fedjax_kd.data.sources import load
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.problems import RECONSTRUCTION

KINDS = ("holdout", "noise", "generator")

_SHARE = 0.1  # of the training rows that "holdout" takes, unless their number is given
_LATENT, _HIDDEN = 100, 256  # of a generator that is still to be trained


@checks_options
def set_apart(
    dataset: Dataset,
    *,
    public: str | None = None,
    public_size: int | None = None,
    validation_fraction: float = 0.0,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> tuple[Dataset, Public | None]:
    """The clients' data set, and the data of the server or of everybody.

    Args:
      dataset: training and test examples.
      public: "holdout", training rows that no client has; the name of another data set, of whose
        training rows the inputs are taken; "noise"; "generator", a network still to be trained; or
        None.
      public_size: inputs of a hold-out or of another data set, >= 1; a tenth of the training rows
        or all of the other data set if not given.
      validation_fraction: share of the training rows that the server keeps to validate with, in
        [0, 1).
      data_dir: folder of the other data set.
      seed: of the rows that are taken, >= 0.

    Raises:
      ValueError: if there is no such data set, its inputs have another shape or kind, or more rows
        are asked for than there are.

    Example:
      >>> left, apart = set_apart(load("digits"), public="holdout", public_size=200)
      >>> len(left.train.y), apart.inputs.x.shape
      (1237, (200, 8, 8, 1))
    """
    if public_size is not None and public in (None, "noise", "generator"):
        raise InputError(
            f"public_size is {public_size} with public={public!r}, but it is the number of inputs "
            "of public 'holdout' or of another data set: leave it out, or name one."
        )
    if dataset.problem is RECONSTRUCTION:
        dataset = stretched_pixels(dataset)
    whole, validation = dataset, None
    if rows := round(validation_fraction * whole.train.num_rows):
        dataset, taken = hold_out(dataset, rows, seed)
        x, y = jax.tree.map(jnp.asarray, (taken.x, taken.y))
        inputs_are_targets = dataset.problem is RECONSTRUCTION or without_targets(taken)
        validation = Data.all_of(x, x if inputs_are_targets else y)
    if public is None:
        return dataset, None if validation is None else Public(None, validation)
    if public == "holdout":
        rows = round(_SHARE * whole.train.num_rows) if public_size is None else public_size
        dataset, taken = hold_out(dataset, rows, seed)
        return dataset, Public(_stored(taken.x, taken.y), validation)
    return dataset, Public(_elsewhere(whole, public, public_size, data_dir, seed), validation)


def hold_out(dataset: Dataset, rows: int, seed: int) -> tuple[Dataset, Examples]:
    """The data set without some random training rows, and these rows.

    Raises:
      ValueError: if there are not more training rows than that.
    """
    count = dataset.train.num_rows
    if rows >= count:
        raise InputError(
            f"{rows} rows are to be held out of {count} training rows of {dataset.name}, which "
            "leaves the clients none: hold out fewer."
        )
    order = np.random.default_rng([seed, 2]).permutation(count)
    taken, left = np.sort(order[:rows]), np.sort(order[rows:])
    return replace(dataset, train=dataset.train.at(left)), dataset.train.at(taken)


def _elsewhere(
    dataset: Dataset, public: str, size: int | None, data_dir: Any, seed: int
) -> Stored | Noise | Generator:
    """Inputs that are none of the training rows."""
    if public not in ("noise", "generator"):
        return _of_another(dataset, public, size, data_dir, seed)
    x = dataset.train.x
    if not isinstance(x, np.ndarray) or are_symbols(x):
        kind = "symbols" if isinstance(x, np.ndarray) else "several arrays"
        raise InputError(
            f"public is {public!r}, but the inputs of {dataset.name} are {kind}: take public "
            "'holdout' or another data set."
        )
    shape, low, high = x.shape[1:], float(x.min()), float(x.max())
    if public == "noise":
        return Noise(jnp.float32(low), jnp.float32(high), shape)
    network = _PixelNetwork(shape, rngs=nnx.Rngs(seed))
    graph, params = nnx.split(network)
    pixels = partial(_pixels, graph, low=low, high=high)
    return Generator(nnx.to_pure_dict(params), pixels, _LATENT)


class _PixelNetwork(nnx.Module):
    """A network of one hidden layer from noise to inputs ``[B, *shape]`` in [0, 1]."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        keys = jax.random.split(rngs.params.key[...])
        first, last = map(_he_normal, keys)
        self.shape = shape
        self.hidden = nnx.Linear(_LATENT, _HIDDEN, kernel_init=first, rngs=rngs)
        self.out = nnx.Linear(_HIDDEN, math.prod(shape), kernel_init=last, rngs=rngs)

    def __call__(self, z: Float[Array, "B E"]) -> Float[Array, "B ..."]:
        made = jax.nn.sigmoid(self.out(jax.nn.relu(self.hidden(z))))
        return made.reshape(len(z), *self.shape)


def _he_normal(key: Key) -> Callable[..., Array]:
    """He's initialiser, without truncation, that draws by ``key`` and not by a layer's own."""
    return lambda _, shape, dtype: jax.random.normal(key, shape, dtype) * (2 / shape[0]) ** 0.5


def _pixels(graph: Any, params: PyTree, z: Array, *, low: float, high: float) -> Array:
    """Inputs between ``low`` and ``high``."""
    return low + (high - low) * nnx.merge(graph, params)(z)


def _of_another(dataset: Dataset, name: str, size: int | None, data_dir: Any, seed: int) -> Stored:
    """Inputs of another data set's training rows."""
    other = load(name, data_dir=data_dir).train
    theirs, ours = types_shown(other.x), types_shown(dataset.train.x)
    if theirs != ours:
        raise InputError(
            f"The public data set {name} has inputs {theirs}, but {dataset.name} has {ours}: take "
            f"one with inputs of the same shape and kind, or {', '.join(KINDS)}."
        )
    count = other.num_rows if size is None else size
    if count > other.num_rows:
        raise InputError(
            f"public_size is {count}, but {name} has {other.num_rows} training rows: ask for fewer."
        )
    rows = np.random.default_rng([seed, 2]).permutation(other.num_rows)[:count]
    return _stored(take_rows(other.x, np.sort(rows)))


def _stored(x: PyTree, y: PyTree = ()) -> Stored:
    return Stored(*jax.tree.map(jnp.asarray, (x, y)))
