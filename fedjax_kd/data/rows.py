"""Helpers of partitioners: checks of their arguments, and lists of row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.errors import InputError
from fedjax_kd.problems import REGRESSION

_BINS = 10  # of values to predict, by which rows may be divided

Parts = Sequence[NDArray[np.int64]]  # a client each: row numbers of the training set, int64 [N]


class Partitioner(Protocol):
    """Divides the training rows of a data set among clients."""

    def __call__(self, dataset: Dataset, /) -> Parts:
        """Row numbers of the training set for every client, int64."""
        ...


def check_enough_rows(num_rows: int, num_partitions: int, min_partition_size: int = 1) -> None:
    """Raises if the rows cannot give every client ``min_partition_size`` of them."""
    if num_partitions > num_rows:
        raise InputError(
            f"num_partitions is {num_partitions}, but there are {num_rows} training rows, more "
            f"clients than examples: ask for at most {num_rows} clients."
        )
    if num_partitions * min_partition_size > num_rows:
        raise InputError(
            f"{num_partitions} clients with min_partition_size={min_partition_size} need "
            f"{num_partitions * min_partition_size} rows, but there are {num_rows}: lower "
            f"min_partition_size to at most {num_rows // num_partitions}, or take fewer clients."
        )


def column(dataset: Dataset, name: str) -> np.ndarray:
    """A value a training row, ``[N]``: that column; ``label`` is the class of each example.

    Where targets are one value an example, ``quantile`` is which tenth of the values it is in.

    Raises:
      ValueError: if there is no such column, as for labels of examples that have no class.
    """
    labels = dataset.labels
    own = {} if labels is None else {"label": labels}
    if dataset.problem is REGRESSION and dataset.train.y[0].size == 1:
        own["quantile"] = _tenths(dataset.train.y.ravel())
    own |= dataset.train.columns
    if name in own:
        return own[name]
    problem = dataset.problem
    raise InputError(
        f"data set {dataset.name!r} has no column {name!r} to divide its training rows by; it has "
        f"{', '.join(own) or 'none'}"
        + ("" if labels is not None else f" (its targets are {problem.says})")
        + ": choose one of these by partition_by (--partition-by), or a partitioner that needs no "
        "column (iid, lognormal, powerlaw)."
    )


def _tenths(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which tenth of the values each is in, 0 to 9."""
    return np.searchsorted(np.quantile(values, np.arange(1, _BINS) / _BINS), values, side="right")


def numbered(values: np.ndarray) -> tuple[Int[np.ndarray, " N"], int]:
    """Values renumbered 0, 1, ... in sorted order, and how many different ones there are.

    Example:
      >>> numbered(np.array(["sketch", "art", "sketch"]))
      (array([1, 0, 1]), 2)
    """
    kinds, codes = np.unique(values, return_inverse=True)
    return codes.reshape(-1), len(kinds)


def by_sizes(rows: Int[np.ndarray, " N"], sizes: Int[np.ndarray, " C"]) -> Parts:
    """Consecutive pieces of ``rows`` of the given sizes, which must add up to its length."""
    return [np.asarray(part, np.int64) for part in np.split(rows, np.cumsum(sizes)[:-1])]


def by_owner(rows: Int[np.ndarray, " N"], owner: Int[np.ndarray, " N"], clients: int) -> Parts:
    """Rows grouped by the client that owns them, in their order.

    Example:
      >>> [part.tolist() for part in by_owner(np.array([5, 6, 7]), np.array([1, 0, 1]), 2)]
      [[6], [5, 7]]
    """
    order = np.argsort(owner, kind="stable")
    return by_sizes(rows[order], np.bincount(owner, minlength=clients))


def by_label_counts(
    labels: Int[np.ndarray, " N"], counts: Int[np.ndarray, "L C"], rng: np.random.Generator
) -> Parts:
    """Rows dealt at random within each label, ``counts[label, client]`` to each client."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    clients = np.broadcast_to(np.arange(counts.shape[1]), counts.shape)
    return by_owner(order, np.repeat(clients.ravel(), counts.ravel()), counts.shape[1])


def ordered(parts: Parts, shuffle: bool, rng: np.random.Generator) -> Parts:
    """Every client's rows in random order, or ascending without ``shuffle``."""
    return [rng.permutation(part) if shuffle else np.sort(part) for part in parts]


def apportion(total: int, shares: Float[np.ndarray, " C"], least: int = 0) -> Int[np.ndarray, " C"]:
    """Whole sizes in proportion to ``shares``, none below ``least``, that add up to ``total``.

    A client whose share is too small gets ``least``; the others divide the rest in proportion,
    and rounding goes to the largest remainders.

    Example:
      >>> apportion(10, np.array([8.0, 1.5, 0.5]), least=1).tolist()
      [8, 1, 1]
    """
    raised = np.zeros(len(shares), bool)
    parts = shares / shares.max()  # however small the shares are, no quotient below may underflow
    while True:
        free = np.where(raised, 0.0, parts)
        exact = (total - least * raised.sum()) * free / max(free.sum(), np.finfo(float).tiny)
        low = ~raised & (exact < least)
        if not low.any():
            break
        raised |= low
    exact = np.where(raised, least, exact)
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: total - sizes.sum()]] += 1
    return sizes
