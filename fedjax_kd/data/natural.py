"""Partitions that the data brings along: writers, speakers, sites, domains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, by_owner, check_enough_rows, column, numbered
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options, nearest

_SHOWN = 5  # ids in a message


@checks_options
@dataclass(frozen=True)
class NaturalIdPartitioner:
    """One client a value of a column, in sorted order of the values.

    Clients with fewer than ``min_partition_size`` rows are left out, and their rows with them; so
    are those that are not among ``clients``. The test set stays as it is.

    Args:
      partition_by: the column that names each row's client.
      min_partition_size: rows that a client needs to be kept, >= 1.
      clients: ids of the clients to keep, values of that column: 3,7,9 or, where ids hold commas, a
        JSON list; on the command line also a file with an id a line, or with such a list. All of
        them if not given.
      max_clients: clients to keep at most, the first ones in sorted order, >= 1; all if not given.

    Raises:
      ValueError: if there is no such column or client, or no client is large enough.

    Example:
      >>> from fedjax_kd.data.dataset import from_arrays
      >>> data = from_arrays(np.zeros((4, 2)), np.array([0, 1, 0, 1]), np.zeros((1, 2)),
      ...                    np.array([0]), train_columns={"client": np.array([7, 3, 3, 3])})
      >>> [part.tolist() for part in NaturalIdPartitioner()(data)]
      [[1, 2, 3], [0]]
      >>> [part.tolist() for part in NaturalIdPartitioner(clients=[7])(data)]
      [[0]]
    """

    partition_by: str = "client"
    min_partition_size: int = 1
    clients: str | Sequence[Any] | None = None
    max_clients: int | None = None

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, ascending."""
        values = column(dataset, self.partition_by)
        codes, clients = numbered(values)
        parts = by_owner(np.arange(len(codes)), codes, clients)
        if self.clients is not None:
            parts = self._chosen([_text(values[part[0]]) for part in parts], parts)
        kept = [part for part in parts if len(part) >= self.min_partition_size]
        if not kept:
            raise InputError(
                f"min_partition_size is {self.min_partition_size}, but the largest client of "
                f"{dataset.name!r} by {self.partition_by!r} has {max(map(len, parts))} rows: lower "
                "min_partition_size."
            )
        return kept[: self.max_clients]

    def _chosen(self, names: Sequence[str], parts: Parts) -> Parts:
        """The rows of the clients that are asked for."""
        given = self.clients or ()
        asked = dict.fromkeys(map(_text, _listed(given) if isinstance(given, str) else given))
        of_name = dict(zip(names, parts, strict=True))
        unknown = [name for name in asked if name not in of_name]
        if unknown or not asked:
            near = nearest(unknown[0], names) if unknown else ""
            raise InputError(
                f"clients names {_some(unknown) or 'nobody'}, but the column {self.partition_by!r} "
                f"has {'no such client' if unknown else 'clients'}{near}. There are {len(names)}: "
                f"{_some(names)}. Give ids of these, or a file with them."
            )
        small = [name for name in asked if len(of_name[name]) < self.min_partition_size]
        if small:
            raise InputError(
                f"clients names {_some(small)}, with fewer rows than "
                f"min_partition_size={self.min_partition_size}: lower it, or leave them out."
            )
        return [part for name, part in of_name.items() if name in asked]


def client_ids(dataset: Dataset, partitioner: object, parts: Parts) -> tuple[str, ...] | None:
    """The data set's own names of clients that `NaturalIdPartitioner` made; None of any others."""
    if not isinstance(partitioner, NaturalIdPartitioner):
        return None
    values = column(dataset, partitioner.partition_by)
    return tuple(_text(values[part[0]]) for part in parts)


def ids_in_file(given: str | None) -> str | None:
    """The ids in a file as a JSON list; what names no file stays as it is.

    A file holds an id a line, or a JSON list, so that a run need not find it again.

    Raises:
      ValueError: if it cannot be read.
    """
    if given is None or not Path(given).is_file():
        return given
    try:
        text = Path(given).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"The file {given} of clients cannot be read: {error}.") from error
    return json.dumps(_listed(text if text.startswith("[") else ",".join(text.split("\n"))))


def _listed(text: str) -> list[str]:
    """The ids in a text: those of a JSON list, or between commas."""
    if not text.startswith("["):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        return [*map(_text, json.loads(text))]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"clients is {text!r}, which is no JSON list ({error}): write ids as 3,7,9 or "
            '["a", "b"].'
        ) from error


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _text(value: Any) -> str:
    """An id as it is written."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


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
