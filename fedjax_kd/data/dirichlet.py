"""Label skew by Dirichlet draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, by_label_counts, check_enough_rows, column, numbered, ordered
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options

_DRAWS = 100  # whole draws before the smallest clients are mended
_SWEEPS = 1000  # mending sweeps before giving up: about a second for 1000 clients and 10 labels
_MIXING_SWEEPS = 20  # further sweeps once every client is large enough


@checks_options
@dataclass(frozen=True)
class DirichletPartitioner:
    """Label skew: each label's rows are divided among clients in Dirichlet(alpha) fractions.

    The whole division is drawn anew until every client holds ``min_partition_size`` rows. Where 100
    draws fail (many clients, small alpha), the last one is mended instead: clients meet in random
    pairs and divide what they hold together anew, each label in a Beta(alpha, alpha) fraction,
    unless this takes one of them further below the minimum. Such a fraction is the law of two
    Dirichlet entries given their sum, so mending walks, up to the rounding of a row, within the
    very distribution that redrawing samples from: Dirichlet, given the sizes. It ends after at most
    1000 sweeps over the clients.

    Args:
      num_partitions: number of clients, >= 1.
      alpha: concentration, > 0, the same for all clients; 0.1 gives them few labels each, 100 makes
        them alike.
      partition_by: the column whose values are skewed; ``label`` is the label.
      min_partition_size: rows that every client gets at least, >= 0.
      self_balancing: whether a client that holds an even share of all rows gets no further label,
        as in FedMA's and FedNTD's code: sizes are alike then, and it is no plain Dirichlet draw.
      shuffle: whether a client's rows are in random order; ascending if not.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, there is no such column, or not even mending
        finds clients of ``min_partition_size`` rows.

    Source: Hsu et al. (2019), arXiv:1909.06335, in the form of Yurochkin et al. (2019),
    arXiv:1905.12022. Names as in flwr-datasets.

    Example:
      >>> from fedjax_kd.data.sources import load
      >>> split = DirichletPartitioner(num_partitions=100, alpha=0.1, min_partition_size=2)
      >>> parts = split(load("digits"))
      >>> len(parts), sum(map(len, parts)), min(map(len, parts)) >= 2
      (100, 1437, True)
    """

    num_partitions: int
    alpha: float
    partition_by: str = "label"
    min_partition_size: int = 10
    self_balancing: bool = False
    shuffle: bool = True
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        labels, kinds = numbered(column(dataset, self.partition_by))
        check_enough_rows(len(labels), self.num_partitions, self.min_partition_size)
        rng = np.random.default_rng(self.seed)
        counts = self._counts(np.bincount(labels, minlength=kinds), rng)
        return ordered(by_label_counts(labels, counts, rng), self.shuffle, rng)

    def _counts(
        self, label_sizes: Int[np.ndarray, " L"], rng: np.random.Generator
    ) -> Int[np.ndarray, "L C"]:
        """Rows of each label for each client, redrawn or mended until all are large enough."""
        for _ in range(_DRAWS):
            counts = _draw(label_sizes, self.num_partitions, self.alpha, self.self_balancing, rng)
            if counts.sum(axis=0).min() >= self.min_partition_size:
                return counts
        even = label_sizes.sum() / self.num_partitions
        ceiling = int(np.ceil(even)) if self.self_balancing else int(label_sizes.sum())
        mending = _SWEEPS
        reached = 0
        while mending > 0:
            counts = _sweep(counts, self.alpha, self.min_partition_size, ceiling, rng)
            smallest = int(counts.sum(axis=0).min())
            if reached < self.min_partition_size <= smallest:
                mending = _MIXING_SWEEPS + 1
            reached = max(reached, smallest)
            mending -= 1
        if reached >= self.min_partition_size:
            return counts
        raise InputError(
            f"alpha={self.alpha} over {self.num_partitions} clients gave a smallest client of "
            f"{reached} rows after {_DRAWS} draws and {_SWEEPS} mending sweeps, but "
            f"min_partition_size is {self.min_partition_size}: raise alpha, lower "
            "min_partition_size, or take fewer clients."
        )


def _draw(
    label_sizes: Int[np.ndarray, " L"],
    clients: int,
    alpha: float,
    self_balancing: bool,
    rng: np.random.Generator,
) -> Int[np.ndarray, "L C"]:
    """Counts from Dirichlet fractions of every label, cut at their rounded running sums."""
    fractions = rng.dirichlet(np.full(clients, alpha), size=len(label_sizes))
    if not self_balancing:
        return _cut(fractions, label_sizes)
    counts = np.zeros((len(label_sizes), clients), np.int64)
    even = label_sizes.sum() / clients
    for label in range(len(label_sizes)):
        has_room = counts.sum(axis=0) < even
        kept = np.where(has_room, fractions[label], 0.0)
        if not kept.any():
            # A tiny alpha gave the whole label to full clients: its limit is one open client.
            kept[rng.choice(np.flatnonzero(has_room))] = 1.0
        counts[label] = _cut(kept[None] / kept.sum(), label_sizes[label : label + 1])[0]
    return counts


def _cut(
    fractions: Float[np.ndarray, "L C"], label_sizes: Int[np.ndarray, " L"]
) -> Int[np.ndarray, "L C"]:
    """Whole numbers of rows whose running sums are the rounded running sums of the fractions."""
    bounds = np.rint(np.cumsum(fractions, axis=1) * label_sizes[:, None]).astype(np.int64)
    bounds[:, -1] = label_sizes
    return np.diff(np.minimum(bounds, label_sizes[:, None]), axis=1, prepend=0)


def _sweep(
    counts: Int[np.ndarray, "L C"], alpha: float, least: int, ceiling: int, rng: np.random.Generator
) -> Int[np.ndarray, "L C"]:
    """Random pairs of clients divide their rows anew if neither of the two falls short."""
    half = counts.shape[1] // 2
    order = rng.permutation(counts.shape[1])
    left, right = order[:half], order[half : 2 * half]
    together = counts[:, left] + counts[:, right]
    fractions = rng.beta(alpha, alpha, size=together.shape)
    first = np.rint(fractions * together).astype(np.int64)
    old = np.stack([counts[:, left].sum(axis=0), counts[:, right].sum(axis=0)])
    new = np.stack([first.sum(axis=0), (together - first).sum(axis=0)])
    hurt = _shortfall(new, least) > _shortfall(old, least)
    overfull = new.max(axis=0) > np.maximum(old.max(axis=0), ceiling)
    accepted = ~(hurt | overfull)
    mended = counts.copy()
    mended[:, left] = np.where(accepted, first, counts[:, left])
    mended[:, right] = np.where(accepted, together - first, counts[:, right])
    return mended


def _shortfall(sizes: Int[np.ndarray, "two pairs"], least: int) -> Int[np.ndarray, " pairs"]:
    """Rows that both clients of a pair lack together."""
    return np.maximum(least - sizes, 0).sum(axis=0)
