"""Who takes part in which round, decided on the host ahead of a block of rounds.

Every draw depends on ``(seed, round number)`` alone, so that a resumed run and a run compared with
it meet the same cohorts.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.int64]
Sampler = Callable[[np.random.Generator, int], Ids]
"""(random generator of this round, round number) -> numbers of the clients asked to take part."""


def uniform(population: int, cohort_size: int) -> Sampler:
    """``cohort_size`` different clients, each as likely as any other.

    Raises:
      ValueError: if the cohort is empty or larger than the population.

    Example:
      >>> len(uniform(population=10, cohort_size=3)(np.random.default_rng(0), 0))
      3
    """
    check_cohort(population, cohort_size)
    return lambda rng, number: rng.choice(population, cohort_size, replace=False)


def weighted(weights: ArrayLike, cohort_size: int) -> Sampler:
    """``cohort_size`` different clients, drawn one after another with odds ``weights``.

    Raises:
      ValueError: if a weight is negative or not finite, or fewer than ``cohort_size`` are positive.
    """
    odds = np.asarray(weights, float)
    check_cohort(len(odds), cohort_size)
    if not np.isfinite(odds).all() or (odds < 0).any() or (odds > 0).sum() < cohort_size:
        raise ValueError(
            f"The sampling weights have {(odds > 0).sum()} positive entries and a minimum of "
            f"{odds.min()}, but must be finite, >= 0, and positive for at least "
            f"cohort_size={cohort_size} clients."
        )
    return lambda rng, number: rng.choice(
        len(odds), cohort_size, replace=False, p=odds / odds.sum()
    )


def given(cohorts: Sequence[Sequence[int]]) -> Sampler:
    """Cohorts written down beforehand, one a round; the list starts again when it ends.

    Raises:
      ValueError: if there is no cohort, or one is empty or names a client twice.
    """
    fixed = [np.asarray(ids, np.int64) for ids in cohorts]
    if not fixed or any(len(ids) == 0 or len(set(ids.tolist())) < len(ids) for ids in fixed):
        raise ValueError("Each given cohort must name at least one client, and none twice.")
    return lambda rng, number: fixed[number % len(fixed)]


def named(sampling: str, sizes: NDArray[np.int64], cohort_size: int) -> Sampler:
    """The sampler that a word or a file stands for.

    Args:
      sampling: "uniform"; "examples", for odds by the number of examples; or the path of a JSON
        file with a list of client numbers for each round, such as ``[[0, 4], [2, 3]]``.
      sizes: training examples of each client, ``[C]``.
      cohort_size: clients K in a cohort.

    Raises:
      ValueError: if it is none of these, or there are no such cohorts.
    """
    if sampling == "uniform":
        return uniform(len(sizes), cohort_size)
    if sampling == "examples":
        return weighted(sizes, cohort_size)
    try:
        cohorts = json.loads(Path(sampling).read_text(encoding="utf-8"))
        return given([[operator.index(i) for i in ids] for ids in cohorts])
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"sampling is {sampling!r}, but must be 'uniform', 'examples', or a JSON file with a "
            f"list of client numbers for each round, such as [[0, 4], [2, 3]] ({error})."
        ) from error


def check_cohort(population: int, cohort_size: int) -> None:
    """Raises ValueError unless ``1 <= cohort_size <= population``."""
    if not 1 <= cohort_size <= population:
        raise ValueError(
            f"cohort_size is {cohort_size}, but must be between 1 and the {population} clients of "
            "this federation: choose a smaller cohort or more clients."
        )


@dataclass(frozen=True)
class Layout:
    """Where a cohort sits in the arrays of a round: groups, device by device, chunk by chunk.

    Attributes:
      members: client numbers of each group, ascending.
      places: places in the cohort array of each group, a multiple of ``width * devices``.
      width: clients of one chunk, a group.
      devices: size of the mesh axis ``clients``.
    """

    population: int
    members: tuple[Ids, ...]
    places: tuple[int, ...]
    width: tuple[int, ...]
    devices: int = 1

    def seats(self, ids: Ids, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int32], ...]:
        """One cohort, a group: the longest work first, so that a chunk holds clients of like size.

        Empty places hold the number ``population``.
        """
        order = ids[np.lexsort((ids, -sizes[ids]))]
        return tuple(
            self._seat(order[np.isin(order, members)], places, width)
            for members, places, width in zip(self.members, self.places, self.width, strict=True)
        )

    def _seat(self, order: Ids, places: int, width: int) -> NDArray[np.int32]:
        if len(order) > places:
            raise ValueError(
                f"A cohort has {len(order)} clients of one group, but there is room for {places}: "
                "give a cohort_size as large as the largest cohort of the sampler."
            )
        seats = np.full(places, self.population, np.int32)
        seats[: len(order)] = order
        by_device = seats.reshape(-1, self.devices, width).swapaxes(0, 1)
        return by_device.reshape(-1)


def lay_out(group_of: NDArray[np.int64], cohort_size: int, chunk: int, devices: int = 1) -> Layout:
    """The layout of cohorts of ``cohort_size`` in chunks of at most ``chunk`` clients a device.

    Example:
      >>> layout = lay_out(np.zeros(10, int), cohort_size=5, chunk=2)
      >>> layout.places, layout.width
      ((6,), (2,))
      >>> layout.seats(np.array([4, 7, 1]), sizes=np.arange(10))
      (array([ 7,  4,  1, 10, 10, 10], dtype=int32),)
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, but at least 1 client must be trained at a time.")
    members = tuple(np.flatnonzero(group_of == g) for g in range(int(group_of.max()) + 1))
    largest = [min(cohort_size, len(m)) for m in members]
    turns = [-(-k // (chunk * devices)) for k in largest]
    width = tuple(-(-k // (n * devices)) for k, n in zip(largest, turns, strict=True))
    places = tuple(n * w * devices for n, w in zip(turns, width, strict=True))
    return Layout(len(group_of), members, places, width, devices)


def schedule(
    sampler: Sampler,
    layout: Layout,
    sizes: NDArray[np.int64],
    *,
    seed: int,
    first: int,
    rounds: int,
    last: int,
    dropout_rate: float = 0.0,
) -> tuple[NDArray[np.int32], ...]:
    """The seats of ``rounds`` rounds from number ``first`` on, ``[rounds, places]`` a group.

    Rounds from number ``last`` on are empty: they fill a block up and change nothing. A sampled
    client drops out, independently of the others, with probability ``dropout_rate``.
    """
    nobody = tuple(np.full(n, layout.population, np.int32) for n in layout.places)

    def seats(number: int) -> tuple[NDArray[np.int32], ...]:
        if number >= last:
            return nobody
        rng = np.random.default_rng([seed, number])
        ids = check_ids(np.asarray(sampler(rng, number), np.int64), layout.population)
        stays = rng.random(len(ids)) >= dropout_rate
        return layout.seats(ids[stays], sizes)

    drawn = [seats(number) for number in range(first, first + rounds)]
    return tuple(np.stack(group) for group in zip(*drawn, strict=True))


def check_ids(ids: Ids, population: int) -> Ids:
    """The client numbers, or ValueError if one does not exist or comes twice."""
    if len(set(ids.tolist())) < len(ids):
        twice = max(ids.tolist(), key=ids.tolist().count)
        raise ValueError(
            f"A cohort names client {twice} twice, but a client takes part once in a round: let "
            "the sampler draw without replacement."
        )
    if len(ids) and (ids.min() < 0 or ids.max() >= population):
        raise ValueError(
            f"A cohort names client {ids.max() if ids.max() >= population else ids.min()}, but "
            f"clients are numbered from 0 to {population - 1}."
        )
    return ids
