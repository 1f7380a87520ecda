"""Long-tailed data: few examples of many classes, from a data set that has more."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

ImbalanceProfile = Literal["exponential", "step"]

TIERS = ("head", "middle", "tail")
_SHARES = (0.75, 0.95)  # of the training rows, where head and middle end


@checks_options
def long_tailed(
    dataset: Dataset,
    imbalance_factor: float,
    *,
    profile: ImbalanceProfile = "exponential",
    seed: int = 0,
) -> Dataset:
    """The data set with fewer training rows of later classes (Cao et al., 2019); tests stay.

        n_l = n_max f^(l / (L - 1))                        exponential
        n_l = n_max if l < floor(L / 2) else n_max f       step

    f is the smallest class over the largest, n_max the rows of the largest class. Rounded down; a
    class keeps at least one row, and at most those that it has.

    Args:
      dataset: with one class an example.
      imbalance_factor: the smallest class over the largest, > 0; or the largest over the smallest,
        if it is above 1: 0.01 and 100 mean the same.
      profile: how the sizes of classes fall: "exponential" from class to class, or in one "step"
        halfway.
      seed: of the rows that are kept, >= 0.

    Raises:
      ValueError: if an option is out of its range, or examples have no class each.

    Example:
      >>> from fedjax_kd.data import from_arrays
      >>> x, y = np.zeros((300, 1)), np.arange(300) % 3
      >>> np.bincount(long_tailed(from_arrays(x, y, x, y), 0.01).train.y).tolist()
      [100, 10, 1]

    Source: Cao, Wei, Gaidon, Arechiga, Ma, NeurIPS 2019, arXiv:1906.07413; Cui, Jia, Lin, Song,
    Belongie, CVPR 2019, arXiv:1901.05555, for the exponential profile.
    """
    check_choice("profile", profile, ImbalanceProfile)
    labels = dataset.labels
    if labels is None:
        raise InputError(
            f"imbalance_factor is {imbalance_factor}, but the targets of {dataset.name} are "
            f"{dataset.problem.says}, so that there are no classes to thin out: leave it out."
        )
    share = min(imbalance_factor, 1 / imbalance_factor)
    counts = np.bincount(labels, minlength=dataset.num_classes)
    place = np.arange(len(counts))
    if profile == "exponential":
        falling = share ** (place / max(len(counts) - 1, 1))
    else:
        falling = np.where(place < len(counts) // 2, 1.0, share)
    # 500 * 0.01 ** 1.0 may fall short of 5 by a rounding error, which is no row less.
    wanted = np.maximum(np.floor(counts.max() * falling + 1e-9), 1).astype(np.int64)
    rng = np.random.default_rng(seed)
    kept = [_some(rng, np.flatnonzero(labels == label), n) for label, n in enumerate(wanted)]
    return replace(dataset, train=dataset.train.at(np.sort(np.concatenate(kept))))


def _some(rng: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rng.permutation(rows)[:count]


def tiers_of(counts: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """The classes of head, middle and tail, from the training rows of each class ``[L]``.

    From the largest class on, those that the first 75 % of all rows reach into are the head, those
    that 95 % reach into the middle, and the others the tail. Of equal ones the first comes first.

    Args:
      counts: training rows of each class.

    Example:
      >>> tiers_of(np.array([5, 70, 10, 15]))
      ((1, 3), (2,), (0,))

    Source: the code of Xiao et al., FedLoGe, ICLR 2024.
    """
    order = np.argsort(-counts, kind="stable")
    before = (np.cumsum(counts[order]) - counts[order]) / max(counts.sum(), 1)
    tier = (before >= _SHARES[0]).astype(int) + (before >= _SHARES[1])
    return tuple(tuple(order[tier == t].tolist()) for t in range(len(TIERS)))
