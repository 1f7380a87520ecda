"""Label skew by construction: shards of sorted rows, and a number of classes a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, by_label_counts, check_enough_rows, column, numbered, ordered
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Mode = Literal["random", "deterministic", "first-deterministic"]


@checks_options
@dataclass(frozen=True)
class ShardPartitioner:
    """Rows sorted by label are cut into shards; every client gets some shards at random.

    Args:
      num_partitions: number of clients, >= 1.
      num_shards_per_partition: shards of one client, >= 1; the paper uses 2.
      partition_by: the column to sort by; ``label`` is the label.
      shard_size: rows of one shard, >= 1. None makes shards of equal size, up to one row, from all
        rows; with a number, rows beyond the clients' shards are given to no client.
      shuffle: whether a client's rows are in random order; ascending if not.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, there is no such column, or there are too few
        rows for the shards.

    Source: McMahan et al. (2017), arXiv:1602.05629. Names as in flwr-datasets.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> data = load("digits")
      >>> parts = ShardPartitioner(num_partitions=10)(data)
      >>> sum(map(len, parts)), max(len(np.unique(data.train.y[part])) for part in parts)
      (1437, 3)
    """

    num_partitions: int
    num_shards_per_partition: int = 2
    partition_by: str = "label"
    shard_size: int | None = None
    shuffle: bool = True
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        labels = column(dataset, self.partition_by)
        check_enough_rows(len(labels), self.num_partitions)
        num_shards = self.num_partitions * self.num_shards_per_partition
        needed = num_shards * (self.shard_size or 1)
        if needed > len(labels):
            raise InputError(
                f"{num_shards} shards of {self.shard_size or 1} rows or more need {needed} rows, "
                f"but there are {len(labels)}: lower num_shards_per_partition or shard_size, or "
                "take fewer clients."
            )
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]
        if self.shard_size is None:
            shards = np.array_split(order, num_shards)
        else:
            whole = len(order) // self.shard_size
            shards = np.split(order[: whole * self.shard_size], whole)
        dealt = rng.permutation(len(shards))[:num_shards].reshape(self.num_partitions, -1)
        parts = [np.concatenate([shards[shard] for shard in mine]) for mine in dealt]
        return ordered(parts, self.shuffle, rng)


@checks_options
@dataclass(frozen=True)
class PathologicalPartitioner:
    """Every client holds a fixed number of classes; a class is divided evenly among its holders.

    Every class is held by somebody and every row is given out: where the draw leaves a class
    without a holder, it replaces a class that several clients hold, at one of them.

    Args:
      num_partitions: number of clients, >= 1.
      num_classes_per_partition: classes of one client, >= 1, at most all.
      partition_by: the column whose values are the classes; ``label`` is the label.
      class_assignment_mode: ``random`` draws each client's classes; ``deterministic`` gives client
        k the classes k, k + 1, ...; ``first-deterministic`` gives it class k and draws the others.
      shuffle: whether a client's rows are in random order; ascending if not.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, there is no such column, the clients together
        cannot hold all classes, or a class has fewer rows than holders.

    Source: Li et al. (2022), arXiv:2102.02079 (``#C = k``). Names as in flwr-datasets.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> data = load("digits")
      >>> parts = PathologicalPartitioner(num_partitions=20, num_classes_per_partition=3)(data)
      >>> sum(map(len, parts)), {len(np.unique(data.train.y[part])) for part in parts}
      (1437, {3})
    """

    num_partitions: int
    num_classes_per_partition: int = 2
    partition_by: str = "label"
    class_assignment_mode: Mode = "random"
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        mode = self.class_assignment_mode
        check_choice("class_assignment_mode", mode, Mode, "'random' is the usual one.")

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        labels, classes = numbered(column(dataset, self.partition_by))
        check_enough_rows(len(labels), self.num_partitions)
        self._check_classes(classes)
        rng = np.random.default_rng(self.seed)
        held = _adopt_orphans(self._holders(classes, rng), rng)
        sizes, holders = np.bincount(labels, minlength=classes), held.sum(axis=0)
        if (sizes < holders).any():
            worst = int(np.argmax(holders - sizes))
            raise InputError(
                f"class {worst} of {self.partition_by!r} has {sizes[worst]} rows for "
                f"{holders[worst]} clients, but each of them must get one: take fewer clients, "
                "lower num_classes_per_partition, or use class_assignment_mode='deterministic', "
                "which spreads the classes evenly."
            )
        return ordered(by_label_counts(labels, _evenly(sizes, held), rng), self.shuffle, rng)

    def _check_classes(self, classes: int) -> None:
        """The classes must fit into a client, and the clients' places must suffice for them."""
        if self.num_classes_per_partition > classes:
            raise InputError(
                f"num_classes_per_partition is {self.num_classes_per_partition}, but column "
                f"{self.partition_by!r} has {classes} classes: give at most {classes}."
            )
        if self.num_partitions * self.num_classes_per_partition < classes:
            raise InputError(
                f"{self.num_partitions} clients with {self.num_classes_per_partition} classes each "
                f"cannot hold all {classes} classes: take more clients, or raise "
                f"num_classes_per_partition to {-(-classes // self.num_partitions)}."
            )

    def _holders(self, classes: int, rng: np.random.Generator) -> Bool[np.ndarray, "C L"]:
        """Which client holds which class, as the mode says."""
        clients = np.arange(self.num_partitions)[:, None]
        ranks = rng.random((self.num_partitions, classes))
        if self.class_assignment_mode == "deterministic":
            ranks[:] = (np.arange(classes) - clients) % classes
        elif self.class_assignment_mode == "first-deterministic":
            ranks[clients, clients % classes] = -1
        held = np.zeros((self.num_partitions, classes), bool)
        held[clients, np.argsort(ranks, axis=1)[:, : self.num_classes_per_partition]] = True
        return held


def _adopt_orphans(
    held: Bool[np.ndarray, "C L"], rng: np.random.Generator
) -> Bool[np.ndarray, "C L"]:
    """Gives each class without a holder the place of a class that several clients hold."""
    held = held.copy()
    for orphan in np.flatnonzero(~held.any(axis=0)):
        places = np.argwhere(held & (held.sum(axis=0) > 1)[None])
        client, shared = places[rng.integers(len(places))]
        held[client, shared], held[client, orphan] = False, True
    return held


def _evenly(sizes: Int[np.ndarray, " L"], held: Bool[np.ndarray, "C L"]) -> Int[np.ndarray, "L C"]:
    """Rows of each class for each client: equal among holders, up to one row."""
    holders = held.sum(axis=0)
    rank = np.cumsum(held, axis=0) - 1
    return (held * (sizes // holders + (rank < sizes % holders))).T
