"""Data sets and their division among clients, on the host."""

from fedjax_kd.data.dataset import Dataset, Examples, from_arrays
from fedjax_kd.data.partition import (
    PARTITIONERS,
    DirichletPartitioner,
    DomainPartitioner,
    IidPartitioner,
    LogNormalPartitioner,
    NaturalIdPartitioner,
    PachinkoPartitioner,
    Partitioner,
    PathologicalPartitioner,
    PowerLawPartitioner,
    ShardPartitioner,
    client_test_split,
)
from fedjax_kd.data.sources import load, sources

__all__ = [
    "PARTITIONERS",
    "Dataset",
    "DirichletPartitioner",
    "DomainPartitioner",
    "Examples",
    "IidPartitioner",
    "LogNormalPartitioner",
    "NaturalIdPartitioner",
    "PachinkoPartitioner",
    "Partitioner",
    "PathologicalPartitioner",
    "PowerLawPartitioner",
    "ShardPartitioner",
    "client_test_split",
    "from_arrays",
    "load",
    "sources",
]
