"""Data sets and their division among clients, on the host."""

from fedjax_kd.data.augment import AUGMENTATIONS
from fedjax_kd.data.dataset import Dataset, Examples, from_arrays
from fedjax_kd.data.long_tail import long_tailed
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
from fedjax_kd.data.public import set_apart
from fedjax_kd.data.sources import load, sources
from fedjax_kd.data.store import ClientStore, Rows, open_store
from fedjax_kd.data.store_files import is_store
from fedjax_kd.data.synthetic import synthetic_clients, synthetic_test
from fedjax_kd.data.window import Window, WindowSize, make_window, window_size
from fedjax_kd.data.writer import pack, write_store

__all__ = [
    "AUGMENTATIONS",
    "PARTITIONERS",
    "ClientStore",
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
    "Rows",
    "ShardPartitioner",
    "Window",
    "WindowSize",
    "client_test_split",
    "from_arrays",
    "is_store",
    "load",
    "long_tailed",
    "make_window",
    "open_store",
    "pack",
    "set_apart",
    "sources",
    "synthetic_clients",
    "synthetic_test",
    "window_size",
    "write_store",
]
