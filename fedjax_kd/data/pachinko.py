"""Pachinko allocation: clients with their own mixture of coarse and, within these, fine labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Parts, by_label_counts, check_enough_rows, column, numbered
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options


@checks_options
@dataclass(frozen=True)
class PachinkoPartitioner:
    """CIFAR-100's split of the adaptive federated optimisation paper, for any two-level labels.

    A client draws Dirichlet(alpha) weights of the coarse labels and, within each, Dirichlet(beta)
    weights of its fine labels. Its rows are drawn one after the other without replacement: coarse
    label, fine label, row. A label that runs out is taken away, for this and all later clients, and
    the weights that are left on its level are renormalised.

    Args:
      num_partitions: number of clients, >= 1; the paper uses 500.
      alpha: concentration over coarse labels, > 0; small values give a client few of them.
      beta: concentration over the fine labels of a coarse one, > 0.
      examples_per_client: rows of every client, >= 1; None divides all rows evenly. Rows beyond
        ``num_partitions * examples_per_client`` are given to no client.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if an argument is out of range, the labels have no column ``coarse``, a fine
        label has two coarse ones, or there are too few rows.

    Source: Reddi et al. (2021), arXiv:2003.00295, appendix on the CIFAR-100 data; the model is
    that of Li and McCallum (2006), "Pachinko allocation".

    Example:
      >>> from fedjax_kd.data.dataset import from_arrays
      >>> y = np.arange(600) % 6
      >>> data = from_arrays(np.zeros((600, 1)), y, np.zeros((6, 1)), np.arange(6),
      ...                    train_columns={"coarse": y // 2})
      >>> parts = PachinkoPartitioner(num_partitions=20)(data)
      >>> {len(part) for part in parts}, len(np.unique(np.concatenate(parts)))
      ({30}, 600)
    """

    num_partitions: int
    alpha: float = 0.1
    beta: float = 10.0
    examples_per_client: int | None = None
    seed: int = 42

    def __call__(self, dataset: Dataset) -> Parts:
        """Row numbers of the training set for every client, int64."""
        fine, _ = numbered(column(dataset, "label"))
        coarse, _ = numbered(column(dataset, "coarse"))
        check_enough_rows(len(fine), self.num_partitions)
        each = self.examples_per_client or len(fine) // self.num_partitions
        if self.num_partitions * each > len(fine):
            raise InputError(
                f"{self.num_partitions} clients with examples_per_client={each} need "
                f"{self.num_partitions * each} rows, but there are {len(fine)}: lower it to at "
                f"most {len(fine) // self.num_partitions}, or take fewer clients."
            )
        rng = np.random.default_rng(self.seed)
        sizes, parents = self._sizes(len(fine), each), _parents(fine, coarse)
        left = np.bincount(fine)
        counts = np.zeros((self.num_partitions + 1, len(left)), np.int64)
        for client, size in enumerate(sizes):
            counts[client] = self._one_client(left, parents, size, rng)
            left = left - counts[client]
        counts[-1] = left  # a last place for the rows that no client gets
        return [rng.permutation(part) for part in by_label_counts(fine, counts.T, rng)[:-1]]

    def _sizes(self, num_rows: int, each: int) -> Int[np.ndarray, " C"]:
        """Rows of every client; an even division differs by one row."""
        sizes = np.full(self.num_partitions, each)
        if self.examples_per_client is None:
            sizes[: num_rows - each * self.num_partitions] += 1
        return sizes

    def _one_client(
        self,
        left: Int[np.ndarray, " L"],
        parents: Int[np.ndarray, " L"],
        size: int,
        rng: np.random.Generator,
    ) -> Int[np.ndarray, " L"]:
        """How many rows of each fine label one client draws from those that are left."""
        coarse_weights = rng.dirichlet(np.full(parents.max() + 1, self.alpha))
        # Gamma draws, divided by their sum within a parent, are Dirichlet draws.
        fine_weights = rng.standard_gamma(self.beta, len(parents))
        counts = np.zeros_like(left)
        while (missing := size - counts.sum()) > 0:
            weights = _weights(coarse_weights, fine_weights, parents, left > counts)
            drawn = rng.choice(len(left), missing, p=weights)
            counts = counts + _until_exhausted(drawn, left - counts)
        return counts


def _parents(fine: Int[np.ndarray, " N"], coarse: Int[np.ndarray, " N"]) -> Int[np.ndarray, " L"]:
    """The coarse label of each fine one."""
    pairs = np.unique(np.stack([fine, coarse], axis=1), axis=0)
    if len(pairs) != fine.max() + 1:
        twice = int(pairs[np.argmax(np.bincount(pairs[:, 0]) > 1), 0])
        raise InputError(
            f"the rows of label {twice} have several values in column 'coarse', but every label "
            "must belong to one coarse label: correct the column."
        )
    return pairs[:, 1]


def _weights(
    coarse_weights: Float[np.ndarray, " G"],
    fine_weights: Float[np.ndarray, " L"],
    parents: Int[np.ndarray, " L"],
    available: Bool[np.ndarray, " L"],
) -> Float[np.ndarray, " L"]:
    """Probability of each fine label, renormalised on both levels over those still available."""
    fine = np.where(available, fine_weights, 0.0)
    within = np.bincount(parents, fine, minlength=len(coarse_weights))
    joint = coarse_weights[parents] * fine / np.where(within > 0, within, 1.0)[parents]
    if not joint.sum() > 0:
        # The weights of all that is left underflowed: no preference among these is known.
        joint = available.astype(float)
    return joint / joint.sum()


def _until_exhausted(
    drawn: Int[np.ndarray, " S"], left: Int[np.ndarray, " L"]
) -> Int[np.ndarray, " L"]:
    """Counts of the draws up to the first that takes the last row of its label."""
    seen = np.cumsum(drawn[:, None] == np.arange(len(left)), axis=0)
    ends = (seen == left).any(axis=1, where=left > 0)
    stop = int(np.argmax(ends)) if ends.any() else len(drawn) - 1
    return seen[stop]
