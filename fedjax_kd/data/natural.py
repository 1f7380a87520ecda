"""Partitions that the data brings along: writers, speakers, sites, domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, by_owner, check_enough_rows, column, numbered
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options


@checks_options
@dataclass(frozen=True)
class NaturalIdPartitioner:
    """One client a value of a column, in sorted order of the values.

    Clients with fewer than ``min_partition_size`` rows are left out, and their rows with them.

    Args:
      partition_by: the column that names each row's client.
      min_partition_size: rows that a client needs to be kept, >= 1.

    Raises:
      ValueError: if there is no such column, or no client is large enough.

    Example:
      >>> from fedjax_kd.data.dataset import from_arrays
      >>> data = from_arrays(np.zeros((4, 2)), np.array([0, 1, 0, 1]), np.zeros((1, 2)),
      ...                    np.array([0]), train_columns={"client": np.array([7, 3, 3, 3])})
      >>> [part.tolist() for part in NaturalIdPartitioner()(data)]
      [[1, 2, 3], [0]]
    """

    partition_by: str = "client"
    min_partition_size: int = 1

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, ascending."""
        codes, clients = numbered(column(dataset, self.partition_by))
        parts = by_owner(np.arange(len(codes)), codes, clients)
        kept = [part for part in parts if len(part) >= self.min_partition_size]
        if not kept:
            raise InputError(
                f"min_partition_size is {self.min_partition_size}, but the largest client of "
                f"{dataset.name!r} by {self.partition_by!r} has {max(map(len, parts))} rows: lower "
                "min_partition_size."
            )
        return kept


@checks_options
@dataclass(frozen=True)
class DomainPartitioner:
    """Clients that hold one domain each: its rows are divided evenly and at random among them.

    Clients are numbered domain by domain, in sorted order of the domains.

    Args:
      clients_per_domain: clients that share a domain, >= 1.
      partition_by: the column that names each row's domain.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if there is no such column, or a domain has fewer rows than clients.

    Source: the set-up of FedBN, Li et al. (2021), arXiv:2102.07623, with one client a domain.

    Example:
      >>> from fedjax_kd.data.dataset import from_arrays
      >>> data = from_arrays(np.zeros((6, 2)), np.arange(6) % 2, np.zeros((1, 2)), np.array([0]),
      ...                    train_columns={"domain": np.array([0, 0, 1, 1, 1, 1])})
      >>> [sorted(part.tolist()) for part in DomainPartitioner(clients_per_domain=1)(data)]
      [[0, 1], [2, 3, 4, 5]]
    """

    clients_per_domain: int = 1
    partition_by: str = "domain"
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        codes, domains = numbered(column(dataset, self.partition_by))
        rng = np.random.default_rng(self.seed)
        parts: list[np.ndarray] = []
        for domain in by_owner(np.arange(len(codes)), codes, domains):
            check_enough_rows(len(domain), self.clients_per_domain)
            parts += np.array_split(rng.permutation(domain), self.clients_per_domain)
        return parts
