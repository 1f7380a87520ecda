"""Algorithms and the clients that are to run them: who runs which, and whether they suit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Plan
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.long_tail import TIERS, tiers_of
from fedjax_kd.data.sampling import Ids
from fedjax_kd.engine import memory
from fedjax_kd.engine.measuring import targets_at
from fedjax_kd.engine.validation import Types
from fedjax_kd.errors import InputError

_COPIES = 3  # of what clients keep: the caller's, the first block's, and its result


def _check_memory(types: Sequence[Types], members: Sequence[Ids | range]) -> None:
    """Raises ValueError if what all clients keep cannot lie on the device."""
    kept = [tree.num_bytes(t.client) * len(m) for t, m in zip(types, members, strict=True)]
    room = memory.free()
    if room is not None and _COPIES * sum(kept) > room:
        raise InputError(
            f"The {sum(map(len, members))} clients keep {sum(kept) / 2**30:.1f} GiB between rounds "
            f"with this method, of which {_COPIES} copies are needed for a moment, but "
            f"{room / 2**30:.1f} GiB are free on the device: take fewer clients, a smaller model, "
            "or a method whose clients keep nothing."
        )


def check_clients(
    groups: Sequence[Algorithm],
    types: Sequence[Types],
    federation: Federation,
    members: Sequence[Ids | range],
    how_many: tuple[int, int],  # clients of a cohort, rounds
) -> None:
    """Raises ValueError, or warns, if the algorithms do not suit their clients."""
    _check_memory(types, members)
    if federation.client_test is None and any(a.finetune is not None for a in groups):
        raise InputError(
            "Fine-tuned evaluation needs test rows of each client, but clients that are streamed "
            "from a store have none: leave out finetune, or take a data set in memory."
        )
    if len({a.choice and a.choice.clients for a in groups}) > 1:
        raise InputError(
            "Some groups of clients are chosen by their losses and others not, or other numbers of "
            "them, but a cohort is chosen as a whole: put the same wrapper around each."
        )
    for algorithm, clients in zip(groups, members, strict=True):
        sizes = federation.sizes_of(np.asarray(clients))
        algorithm.check(Plan(federation.train.x, sizes, clients, *how_many))


def members_of(
    group_of: NDArray[np.int64] | None, num_groups: int, population: int
) -> tuple[Ids | range, ...]:
    """The clients of each group; all in one if there is only one algorithm."""
    if group_of is None and num_groups == 1:
        return (range(population),)
    given = np.asarray([] if group_of is None else group_of)
    if given.shape != (population,) or set(given.tolist()) != set(range(num_groups)):
        raise InputError(
            f"group_of has shape {given.shape} and values {sorted(set(given.tolist()))}, but with "
            f"{num_groups} algorithms it must give each of the {population} clients a number from "
            f"0 to {num_groups - 1}, each at least once."
        )
    return tuple(np.flatnonzero(given == g) for g in range(num_groups))


def class_tiers(federation: Federation) -> dict[str, tuple[int, ...]]:
    """The classes of head, middle and tail, by what all clients have to train on.

    Raises:
      ValueError: if clients are streamed, of whom only some are known.
    """
    if federation.store is not None:
        raise InputError(
            "tiers needs the classes of all training rows, but these clients are streamed from a "
            "store: leave it out."
        )
    labels = np.asarray(targets_at(federation.train, federation.train.rows))
    counts = np.bincount(labels, minlength=federation.num_classes)
    return dict(zip(TIERS, tiers_of(counts), strict=True))
