"""Synthetic federations of any size, for tests of scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.options import checks_options

_BLOCK_CLIENTS, _BLOCK_PIXELS = 4096, 1 << 22


class _Recipe(NamedTuple):
    """What decides the examples."""

    seed: int
    num_classes: int
    noise: float
    shape: tuple[int, ...]


@checks_options
def synthetic_clients(
    num_clients: int,
    *,
    seed: int = 0,
    num_classes: int = 10,
    mean_rows: float = 10.0,
    sigma: float = 1.0,
    alpha: float = 0.3,
    noise: float = 48.0,
    shape: tuple[int, ...] = (8, 8, 1),
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Clients with small pictures that can be learnt: a prototype of the class, and noise.

    The number of rows is log-normal, the labels of a client are drawn from its own Dirichlet
    distribution. Client ``c`` depends on ``c`` and the options, not on the number of clients.

    Args:
      num_clients: how many to make, >= 1.
      seed: of everything that is random, >= 0.
      num_classes: classes L, >= 1.
      mean_rows: expected rows of a client, > 0; each has at least 1.
      sigma: standard deviation of the logarithm of the rows, >= 0; with 0 all clients are alike.
      alpha: of the Dirichlet distribution, > 0; small values (0.1) skew the labels.
      noise: standard deviation of a pixel, whose prototypes lie in 96 to 160; >= 0.
      shape: of a picture, each >= 1.

    Returns:
      An iterator over inputs uint8 ``[N, *shape]`` and labels int32 ``[N]`` of each client.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> x, y = next(synthetic_clients(1_000_000, mean_rows=5, sigma=0))
      >>> x.shape, str(x.dtype), y.shape
      ((5, 8, 8, 1), 'uint8', (5,))
    """
    recipe = _Recipe(seed, num_classes, noise, tuple(shape))
    return _clients(recipe, num_clients, mean_rows, sigma, alpha)


@checks_options
def synthetic_test(
    num_rows: int,
    *,
    seed: int = 0,
    num_classes: int = 10,
    noise: float = 48.0,
    shape: tuple[int, ...] = (8, 8, 1),
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Test examples for `synthetic_clients` with the same options, as many of each class.

    Args:
      num_rows: how many to make, >= 1.
      seed: of everything that is random, >= 0.
      num_classes: classes L, >= 1.
      noise: standard deviation of a pixel, >= 0.
      shape: of a picture, each >= 1.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> x, y = synthetic_test(20)
      >>> x.shape, np.bincount(y).tolist()
      ((20, 8, 8, 1), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    recipe = _Recipe(seed, num_classes, noise, tuple(shape))
    y = (np.arange(num_rows) % num_classes).astype(np.int32)
    return _pictures(recipe, y, np.random.default_rng([seed, 1])), y


def _clients(
    recipe: _Recipe, num_clients: int, mean_rows: float, sigma: float, alpha: float
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """The clients, drawn in blocks whose length depends on all options but ``num_clients``."""
    pixels = mean_rows * math.prod(recipe.shape)
    block = min(max(int(_BLOCK_PIXELS / pixels), 1), _BLOCK_CLIENTS)
    for first in range(0, num_clients, block):
        rng = np.random.default_rng([recipe.seed, 2, first])
        drawn = rng.lognormal(math.log(mean_rows) - sigma**2 / 2, sigma, block)
        sizes = np.maximum(np.rint(drawn), 1).astype(np.int64)
        y = _labels(recipe.num_classes, sizes, alpha, rng)
        x = _pictures(recipe, y, rng)
        ends = np.cumsum(sizes).tolist()
        for begin, end in zip([0, *ends][: num_clients - first], ends, strict=False):
            yield x[begin:end], y[begin:end]


def _labels(
    num_classes: int, sizes: NDArray[np.int64], alpha: float, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Labels of all rows of some clients, each client with its own odds."""
    odds = rng.dirichlet(np.full(num_classes, alpha), len(sizes)).cumsum(axis=1)
    clients = np.arange(len(sizes))
    owner = np.repeat(clients, sizes)
    # One sorted list for all: the odds of client c, cumulated, lie between c and c + 1.
    place = np.searchsorted((odds + clients[:, None]).ravel(), owner + rng.random(len(owner)))
    return np.clip(place - owner * num_classes, 0, num_classes - 1).astype(np.int32)


def _pictures(recipe: _Recipe, y: NDArray[np.int32], rng: np.random.Generator) -> NDArray[Any]:
    """The prototype of each label, and noise."""
    own = np.random.default_rng([recipe.seed, 0])
    prototypes = own.uniform(96, 160, (recipe.num_classes, *recipe.shape)).astype(np.float32)
    pictures = rng.standard_normal((len(y), *recipe.shape), np.float32)
    pictures *= np.float32(recipe.noise)
    pictures += prototypes[y]
    return np.clip(pictures, 0, 255, out=pictures).astype(np.uint8)
