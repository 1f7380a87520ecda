"""The cohorts of a block of rounds, and where their clients are placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.sampling import NOWHERE, Cohort, Ids, Starts
from fedjax_kd.engine.schedule import Layout, Placement, Work


class BlockCohorts(NamedTuple):
    """The cohorts of a block of R rounds, and where their clients are placed."""

    groups: tuple[Placement, ...]  # leaves [R, ...]
    work: list[Work]  # [R]
    cohorts: list[Cohort]  # [R]


def block_cohorts(
    cohort_of: Callable[[int], Cohort],
    layout: Layout,
    sizes_of: Callable[[Ids], NDArray[np.int64]],
    *,
    first: int,
    rounds: int,
    last: int,
) -> BlockCohorts:
    """Who takes part in ``rounds`` rounds from number ``first`` on, and where.

    Rounds from number ``last`` on are empty: they fill a block up and change nothing.

    Args:
      cohort_of: round number -> who takes part.
      layout: where clients are placed, from `fedjax_kd.engine.schedule.lay_out`.
      sizes_of: client numbers -> their examples.
      first: number of the first round.
      rounds: of the block.
      last: number of rounds of the whole run.
    """
    numbers = range(first, first + rounds)
    cohorts = [cohort_of(min(number, last - 1)) for number in numbers]
    cohorts = [c if n < last else _emptied(c) for c, n in zip(cohorts, numbers, strict=True)]
    placed = [
        layout.place(c.ids, sizes_of(c.ids), n) for c, n in zip(cohorts, numbers, strict=True)
    ]
    each = [
        [_started(placement, cohort) for placement in placements]
        for (placements, _), cohort in zip(placed, cohorts, strict=True)
    ]
    groups = [jax.tree.map(lambda *rounds: np.stack(rounds), *g) for g in zip(*each, strict=True)]
    return BlockCohorts(tuple(groups), [work for _, work in placed], cohorts)


def _emptied(cohort: Cohort) -> Cohort:
    """The cohort of a round that is none, with facts of the same names."""
    nobody = np.zeros(0, np.int64)
    starts = None if cohort.starts is None else Starts(nobody, nobody, NOWHERE)
    return Cohort(nobody, cohort.facts, starts)


def _started(placement: Placement, cohort: Cohort) -> Placement:
    """The placement of a cohort, with when the client of each slot began."""
    if cohort.starts is None:
        return placement
    order, slots = np.argsort(cohort.ids), placement.slots
    at = np.searchsorted(cohort.ids, slots, sorter=order)

    def of_slot(values: Ids) -> NDArray[np.int32]:
        # The number of an empty slot is larger than any client's.
        return np.append(values[order], 0)[at].astype(np.int32)

    lags, reads, write = cohort.starts
    starts = Starts(of_slot(lags), of_slot(reads), np.full(len(slots), write, np.int32))
    return placement._replace(starts=starts)
