"""Partitioners by name, and the division of each client's rows into training and test rows."""

from __future__ import annotations

import numpy as np

from fedjax_kd.data.dirichlet import DirichletPartitioner
from fedjax_kd.data.natural import DomainPartitioner, NaturalIdPartitioner
from fedjax_kd.data.pachinko import PachinkoPartitioner
from fedjax_kd.data.rows import Partitioner, Parts
from fedjax_kd.data.shards import PathologicalPartitioner, ShardPartitioner
from fedjax_kd.data.sizes import IidPartitioner, LogNormalPartitioner, PowerLawPartitioner
from fedjax_kd.options import checks_options

__all__ = [
    "PARTITIONERS",
    "DirichletPartitioner",
    "DomainPartitioner",
    "IidPartitioner",
    "LogNormalPartitioner",
    "NaturalIdPartitioner",
    "PachinkoPartitioner",
    "Partitioner",
    "Parts",
    "PathologicalPartitioner",
    "PowerLawPartitioner",
    "ShardPartitioner",
    "client_test_split",
]

PARTITIONERS: dict[str, type] = {
    "iid": IidPartitioner,
    "dirichlet": DirichletPartitioner,
    "shard": ShardPartitioner,
    "pathological": PathologicalPartitioner,
    "lognormal": LogNormalPartitioner,
    "powerlaw": PowerLawPartitioner,
    "natural": NaturalIdPartitioner,
    "domain": DomainPartitioner,
    "pachinko": PachinkoPartitioner,
}


@checks_options
def client_test_split(parts: Parts, fraction: float, seed: int = 0) -> tuple[Parts, Parts]:
    """Holds out about ``fraction`` of each client's rows for the evaluation of its own model.

    Every client keeps at least one row for training, so one that has a single row has no test
    rows. Which rows are held out depends on the seed, the client's number and size, and on no
    other client.

    Args:
      parts: rows of each client.
      fraction: share of a client's rows to hold out, in [0, 1), rounded to whole rows.
      seed: of the random draws, >= 0.

    Returns:
      Training rows and test rows of each client, in their old order.

    Raises:
      ValueError: if ``fraction`` or ``seed`` is out of range.

    Example:
      >>> train, test = client_test_split([np.arange(5), np.array([9])], fraction=0.4)
      >>> [len(part) for part in train], [len(part) for part in test]
      ([3, 1], [2, 0])
    """
    train, test = [], []
    for client, rows in enumerate(parts):
        held = min(int(fraction * len(rows) + 0.5), max(len(rows) - 1, 0))
        is_test = np.zeros(len(rows), bool)
        is_test[np.random.default_rng((seed, client)).permutation(len(rows))[:held]] = True
        train.append(rows[~is_test])
        test.append(rows[is_test])
    return train, test
