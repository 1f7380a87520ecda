"""Who takes part in which round, decided on the host ahead of a block of rounds.

Every draw depends on ``(seed, round number)`` alone, so that a resumed run and a run compared with
it meet the same cohorts. What depends on losses is decided on the device, among the clients that
were drawn here: `fedjax_kd.wrappers.choice`.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from fedjax_kd.errors import InputError

Ids = NDArray[np.int64]

RULES = ("uniform", "examples", "poisson")  # that `sampler_named` knows


class Starts(NamedTuple):
    """When the clients of an asynchronous cohort began, and where servers of then are kept.

    Integers: of each client ``[k]``, and on a device of each slot; ``write`` is one for all.
    """

    lags: Any  # server steps since a client received its message
    reads: Any  # where the server is kept that sent it, if that is not the newest
    write: Any  # where the newest server is kept for those that work on; `NOWHERE` if none does


NOWHERE = 2**30


class Cohort(NamedTuple):
    """The clients of a round, and the host's other facts about it.

    ``facts`` become columns of the round's row: simulated seconds, how many were asked in vain. A
    sampler tells the same ones in every round.
    """

    ids: Ids
    facts: Mapping[str, float] = MappingProxyType({})
    starts: Starts | None = None  # None if all begin together
    unheard: Ids = np.zeros(0, np.int64)  # further clients that received a message
    refused: Ids = np.zeros(0, np.int64)  # those of them whose upload came too late


Sampler = Callable[[np.random.Generator, int], Ids | Cohort]
"""(random generator of this round, round number) -> the clients asked to take part: their numbers,
or a `Cohort` with facts."""


@dataclass(frozen=True)
class Uniform:
    """Different clients, each as likely as any other; see `uniform`."""

    population: int
    cohort_size: int

    def __call__(self, rng: np.random.Generator, number: int) -> Ids:
        """Who is asked in a round."""
        return rng.choice(self.population, self.cohort_size, replace=False)

    def among(self, online: Ids) -> Sampler:
        """The same of some clients alone: all of them if they are fewer."""
        count = min(self.cohort_size, len(online))
        return lambda rng, number: online[rng.choice(len(online), count, replace=False)]


def uniform(population: int, cohort_size: int) -> Uniform:
    """``cohort_size`` different clients, each as likely as any other.

    Raises:
      ValueError: if the cohort is empty or larger than the population.

    Example:
      >>> len(uniform(population=10, cohort_size=3)(np.random.default_rng(0), 0))
      3
    """
    check_cohort(population, cohort_size)
    return Uniform(population, cohort_size)


@dataclass(frozen=True)
class Weighted:
    """Different clients, drawn one after another with odds; see `weighted`."""

    odds: NDArray[np.float64]
    cohort_size: int

    def __call__(self, rng: np.random.Generator, number: int) -> Ids:
        """Who is asked in a round."""
        share = self.odds / self.odds.sum()
        return rng.choice(len(self.odds), self.cohort_size, replace=False, p=share)

    def among(self, online: Ids) -> Sampler:
        """The same of some clients alone: all that have odds if they are fewer."""
        odds = self.odds[online]
        some = Weighted(odds, min(self.cohort_size, int((odds > 0).sum())))
        return lambda rng, number: online[some(rng, number)] if some.cohort_size else online[:0]


@dataclass(frozen=True)
class Poisson:
    """Each client takes part independently of the others; see `poisson`."""

    population: int
    cohort_size: int

    @property
    def most(self) -> int:
        """Clients of the largest cohort: a larger one is drawn with a probability below 1e-9."""
        rate = self.cohort_size / self.population
        return int(scipy.stats.binom.isf(1e-9, self.population, rate))

    def __call__(self, rng: np.random.Generator, number: int) -> Ids:
        """Who is asked in a round."""
        draws = rng.random(self.population)
        ids = np.flatnonzero(draws < self.cohort_size / self.population)
        return ids if len(ids) <= self.most else ids[np.argsort(draws[ids])][: self.most]


def poisson(population: int, cohort_size: int) -> Poisson:
    """Each client with probability ``cohort_size / population``, as privacy accounting assumes.

    A cohort has ``cohort_size`` clients on average and at most `Poisson.most`; it may be empty.

    Raises:
      ValueError: if the cohort is empty or larger than the population.

    Example:
      >>> [len(poisson(100, 10)(np.random.default_rng(n), 0)) for n in range(4)]
      [10, 8, 11, 8]
    """
    check_cohort(population, cohort_size)
    return Poisson(population, cohort_size)


def weighted(weights: ArrayLike, cohort_size: int) -> Weighted:
    """``cohort_size`` different clients, drawn one after another with odds ``weights``.

    Raises:
      ValueError: if a weight is negative or not finite, or fewer than ``cohort_size`` are positive.
    """
    odds = np.asarray(weights, float)
    check_cohort(len(odds), cohort_size)
    if not np.isfinite(odds).all() or (odds < 0).any() or (odds > 0).sum() < cohort_size:
        raise InputError(
            f"The sampling weights have {(odds > 0).sum()} positive entries and a minimum of "
            f"{odds.min()}, but must be finite, >= 0, and positive for at least "
            f"cohort_size={cohort_size} clients."
        )
    return Weighted(odds, cohort_size)


def fixed(cohorts: Sequence[Sequence[int]]) -> Sampler:
    """Cohorts written down beforehand, one a round; the list starts again when it ends.

    Raises:
      ValueError: if there is no cohort, or one is empty or names a client twice.
    """
    fixed = [np.asarray(ids, np.int64) for ids in cohorts]
    if not fixed or any(len(ids) == 0 or len(set(ids.tolist())) < len(ids) for ids in fixed):
        raise InputError("Each given cohort must name at least one client, and none twice.")
    return lambda rng, number: fixed[number % len(fixed)]


def sampler_named(
    sampling: str,
    sizes: NDArray[np.int64],
    cohort_size: int,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Sampler:
    """The sampler that a word or a file stands for.

    Args:
      sampling: "uniform"; "examples", for odds by the number of examples; "poisson", each client
        independently of the others, so that cohorts vary in size; or the path of a JSON file with a
        list of client numbers for each round, such as ``[[0, 4], [2, 3]]``.
      sizes: training examples of each client, ``[C]``.
      cohort_size: clients K in a cohort.
      files: texts of files by their paths, which are not read again.

    Raises:
      ValueError: if it is none of these, or there are no such cohorts.
    """
    if sampling == "uniform":
        return uniform(len(sizes), cohort_size)
    if sampling == "examples":
        return weighted(sizes, cohort_size)
    if sampling == "poisson":
        return poisson(len(sizes), cohort_size)
    try:
        text = files[sampling] if sampling in files else Path(sampling).read_text(encoding="utf-8")
        cohorts = json.loads(text)
        return fixed([[operator.index(i) for i in ids] for ids in cohorts])
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            f"sampling is {sampling!r}, but must be 'uniform', 'examples', 'poisson', or a JSON "
            f"file with a list of client numbers for each round, as [[0, 4], [2, 3]] ({error}). By "
            "losses it goes with the wrappers power_of_choice and loss_sampling."
        ) from error


def restricted(sampler: Sampler, online: Ids) -> Sampler:
    """A sampler that asks some clients alone.

    One of your own does so by a method ``among(online) -> sampler``; without it, the others of
    those whom it asks do not count.

    Example:
      >>> restricted(fixed([[4, 2, 0]]), np.array([2, 3, 4]))(np.random.default_rng(0), 0)
      array([4, 2])
    """
    own = getattr(sampler, "among", None)
    if own is not None:
        return own(online)

    def asked(rng: np.random.Generator, number: int) -> Ids | Cohort:
        drawn = sampler(rng, number)
        ids = np.asarray(drawn.ids if isinstance(drawn, Cohort) else drawn, np.int64)
        ids = ids[np.isin(ids, online)]
        return drawn._replace(ids=ids) if isinstance(drawn, Cohort) else ids

    return asked


def check_cohort(population: int, cohort_size: int) -> None:
    """Raises ValueError unless ``1 <= cohort_size <= population``."""
    if not 1 <= cohort_size <= population:
        raise InputError(
            f"cohort_size is {cohort_size}, but must be between 1 and the {population} clients of "
            "this federation: choose a smaller cohort or more clients."
        )


def participants(
    sampler: Sampler, population: int, seed: int, number: int, dropout_rate: float = 0.0
) -> Cohort:
    """The clients that take part in round ``number``, dropout taken off.

    Where clients may drop out, the fact ``no_answer`` tells how many did.
    """
    rng = np.random.default_rng([seed, number])
    drawn = sampler(rng, number)
    ids, facts = (drawn.ids, drawn.facts) if isinstance(drawn, Cohort) else (drawn, {})
    ids = check_ids(np.asarray(ids, np.int64), population)
    answered = ids[rng.random(len(ids)) >= dropout_rate]
    if not dropout_rate:
        return Cohort(answered, facts)
    return Cohort(answered, {**facts, "no_answer": float(len(ids) - len(answered))})


def check_ids(ids: Ids, population: int) -> Ids:
    """The client numbers, or ValueError if one does not exist or comes twice."""
    if len(set(ids.tolist())) < len(ids):
        twice = max(ids.tolist(), key=ids.tolist().count)
        raise InputError(
            f"A cohort names client {twice} twice, but a client takes part once in a round: let "
            "the sampler draw without replacement."
        )
    if len(ids) and (ids.min() < 0 or ids.max() >= population):
        raise InputError(
            f"A cohort names client {ids.max() if ids.max() >= population else ids.min()}, but "
            f"clients are numbered from 0 to {population - 1}."
        )
    return ids
