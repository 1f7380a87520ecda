"""Partitions without label skew: even, or uneven in size only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, apportion, by_sizes, check_enough_rows
from fedjax_kd.options import checks_options


@checks_options
@dataclass(frozen=True)
class IidPartitioner:
    """Rows divided evenly and at random; sizes differ by one row at most.

    Args:
      num_partitions: number of clients, >= 1.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if there are more clients than rows.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> sorted(map(len, IidPartitioner(num_partitions=4)(load("digits"))))
      [359, 359, 359, 360]
    """

    num_partitions: int
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        num_rows = dataset.train.num_rows
        check_enough_rows(num_rows, self.num_partitions)
        rng = np.random.default_rng(self.seed)
        return np.array_split(rng.permutation(num_rows), self.num_partitions)


@checks_options
@dataclass(frozen=True)
class LogNormalPartitioner:
    """Size skew: random rows, sizes in proportion to log-normal draws ``exp(sigma * normal)``.

    Args:
      num_partitions: number of clients, >= 1.
      sigma: standard deviation of the logarithm of the sizes, >= 0; 0 gives even sizes.
      min_partition_size: rows that every client gets at least, >= 1.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, or there are too few rows.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> parts = LogNormalPartitioner(num_partitions=50, sigma=1.0)(load("digits"))
      >>> sum(map(len, parts)), max(map(len, parts)) > 5 * min(map(len, parts))
      (1437, True)
    """

    num_partitions: int
    sigma: float = 1.0
    min_partition_size: int = 1
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        rng = np.random.default_rng(self.seed)
        logs = self.sigma * rng.standard_normal(self.num_partitions)
        return _by_log_shares(dataset, logs, self.min_partition_size, rng)


@checks_options
@dataclass(frozen=True)
class PowerLawPartitioner:
    """Size skew: random rows, client ``k``'s size in proportion to ``(k + 1) ** -exponent``.

    Client 0 is the largest. Negative exponents let sizes grow with the client's number: -1 is
    flwr-datasets' LinearPartitioner, -2 its SquarePartitioner.

    Args:
      num_partitions: number of clients, >= 1.
      exponent: any number; 0 gives even sizes, 1 Zipf's law.
      min_partition_size: rows that every client gets at least, >= 1.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, or there are too few rows.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> split = PowerLawPartitioner(num_partitions=3, exponent=1.0)
      >>> [len(part) for part in split(load("digits"))]
      [784, 392, 261]
    """

    num_partitions: int
    exponent: float = 1.0
    min_partition_size: int = 1
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        logs = -self.exponent * np.log(np.arange(1, self.num_partitions + 1))
        rng = np.random.default_rng(self.seed)
        return _by_log_shares(dataset, logs, self.min_partition_size, rng)


def _by_log_shares(
    dataset: Dataset, logs: np.ndarray, least: int, rng: np.random.Generator
) -> Parts:
    """Random rows in pieces whose sizes are in proportion to ``exp(logs)``."""
    num_rows = dataset.train.num_rows
    check_enough_rows(num_rows, len(logs), least)
    # Less the largest: a share must not overflow, however large sigma is.
    sizes = apportion(num_rows, np.exp(logs - logs.max()), least)
    return by_sizes(rng.permutation(num_rows), sizes)
