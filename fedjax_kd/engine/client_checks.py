"""Checks of algorithms against the clients that are to run them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Plan
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.sampling import Ids
from fedjax_kd.engine import memory
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
    for algorithm, clients in zip(groups, members, strict=True):
        sizes = federation.sizes_of(np.asarray(clients))
        algorithm.check(Plan(federation.train.x, sizes, clients, *how_many))
