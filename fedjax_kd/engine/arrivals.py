"""Asynchronous training as a schedule: when clients are done, and from which server each began.

All of it follows from how long clients take, never from what they learn. So the events are played
first, on the host; the device then trains the clients of each server step side by side.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fedjax_kd.data.sampling import NOWHERE, Cohort, Ids, Starts
from fedjax_kd.engine.clock import Clock, Draw, DurationsOf


class Arrival(NamedTuple):
    """One client at work."""

    finish: float  # seconds of the clock
    number: int  # in the order in which jobs begin
    client: int
    version: int  # server steps before it began
    answers: bool
    seconds: float


class ServerStep(NamedTuple):
    """A step of the server, and what has arrived since the one before."""

    seconds: float  # of the clock
    used: list[Arrival]
    stale: list[Arrival]  # too old to be used
    offline: list[Arrival]  # at their end
    working_on: frozenset[int]  # versions from which clients work that may still be used


class Begun(NamedTuple):
    """A client that begins to work."""

    client: int
    seconds: float  # until it is done
    answers: bool = True  # whether it will be online then


Begin = Callable[[int, float, Collection[int]], list[Begun]]
"""(free places, time, clients that are at work or waited for) -> at most so many that begin now"""


def server_steps(
    begin: Begin, concurrency: int, buffer: int, max_staleness: int | None = None
) -> Iterator[ServerStep]:
    """The steps of an asynchronous server, without end.

    Events of one instant, and the server steps that they cause, come before any client begins anew
    at that instant: otherwise clients that are equally fast would be stale to each other.

    Args:
      begin: who begins to work; the caller sees to it that somebody does.
      concurrency: clients at work at any time.
      buffer: uploads K that make a server step.
      max_staleness: server steps after which an upload is thrown away; never if None.

    Source: Nguyen et al., 2022, arXiv:2106.06639.

    Example:
      >>> jobs = iter([Begun(0, 1.0), Begun(1, 5.0), *(Begun(n, 1.0) for n in range(2, 9))])
      >>> steps = server_steps(lambda free, *_: [next(jobs) for _ in range(free)], 2, 2)
      >>> [(s.seconds, [j.client for j in s.used]) for _, s in zip(range(2), steps)]
      [(2.0, [0, 2]), (4.0, [3, 4])]
    """
    working: list[Arrival] = []
    waiting: list[Arrival] = []
    stale: list[Arrival] = []
    offline: list[Arrival] = []
    now, version, begun = 0.0, 0, 0
    while True:
        busy = {job.client for job in (*working, *waiting)}
        for client, seconds, answers in begin(concurrency - len(working), now, busy):
            heapq.heappush(
                working, Arrival(now + seconds, begun, client, version, answers, seconds)
            )
            begun += 1
        now = working[0].finish
        while working and working[0].finish == now:
            job = heapq.heappop(working)
            too_old = max_staleness is not None and version - job.version > max_staleness
            (stale if too_old else waiting if job.answers else offline).append(job)
            if len(waiting) == buffer:
                # Those of this instant that are not handled yet count as at work.
                usable = (j for j in working if _is_usable(j, version + 1, max_staleness))
                versions = frozenset(j.version for j in usable)
                yield ServerStep(now, waiting, stale, offline, versions)
                version, waiting, stale, offline = version + 1, [], [], []


def _is_usable(job: Arrival, version: int, max_staleness: int | None) -> bool:
    """Whether the upload of a job will be used if it arrives before another server step."""
    fresh = max_staleness is None or version - job.version <= max_staleness
    return job.answers and fresh


def cohorts_of(steps: Iterable[ServerStep]) -> Iterator[Cohort]:
    """The cohort of each server step, and where servers are kept for those that work on.

    A server is kept in the lowest free place for as long as any client works from it.
    """
    kept: dict[int, int] = {}  # version -> place
    for version, step in enumerate(steps):
        lags = [version - job.version for job in step.used]
        reads = [kept.get(job.version, 0) for job in step.used]
        kept = {v: place for v, place in kept.items() if v in step.working_on}
        write = NOWHERE
        if version in step.working_on:
            write = next(n for n in range(len(kept) + 1) if n not in kept.values())
            kept[version] = write
        wasted = [*step.stale, *step.offline]
        yield Cohort(
            _ids(job.client for job in step.used),
            {
                "simulated_seconds": step.seconds,
                "staleness": float(np.mean(lags)),
                "late": float(len(step.stale)),
                "offline": float(len(step.offline)),
                "wasted_seconds": sum(job.seconds for job in wasted),
            },
            Starts(_ids(lags), _ids(reads), write),
            unheard=_ids(job.client for job in wasted),
            refused=_ids(job.client for job in step.stale),
        )


def _ids(numbers: Iterable[int]) -> Ids:
    return np.array([*numbers], np.int64)


def asynchronous(
    clock: Clock, draw: Draw, durations: DurationsOf, cohort_size: int
) -> Iterator[Cohort]:
    """The cohorts of an asynchronous server: of each step, the clients whose uploads it takes.

    A client does one job at a time, and begins none while its upload waits for a server step. Who
    begins is drawn by the sampler, and by lot among all others where it names too few. A client
    that would be offline at its end sends nothing.

    Args:
      clock: with its ``concurrency``.
      draw: who is asked.
      durations: what clients need for a round.
      cohort_size: uploads K that make a server step.
    """
    assert clock.concurrency is not None
    begin = _Beginning(clock, draw, durations)
    return cohorts_of(server_steps(begin, clock.concurrency, cohort_size, clock.max_staleness))


def _without(population: int, busy: Collection[int]) -> Ids:
    """All clients but some."""
    idle = np.ones(population, bool)
    idle[[*busy]] = False
    return np.flatnonzero(idle)


class _Beginning:
    """Who begins to work, draw after draw."""

    def __init__(self, clock: Clock, draw: Draw, durations: DurationsOf) -> None:
        self._devices, self._draw, self._durations = clock.devices, draw, durations
        self._concurrency, self._draws = clock.concurrency or 1, 0

    def __call__(self, free: int, now: float, busy: Collection[int]) -> list[Begun]:
        idle = _without(self._draw.population, busy)
        if not free or not len(idle):
            return []
        # With nobody at work, time goes on to when somebody comes online.
        at_work = free < self._concurrency
        start = now if at_work else self._devices.next_online(idle, now)
        number, able = self._draws, idle[self._devices.online(idle, start)]
        ids = self._drawn(able, min(free, len(able)))
        needed = start - now + self._durations(ids, number).seconds
        answers = self._devices.online(ids, now + needed)
        begun = zip(ids.tolist(), needed.tolist(), answers.tolist(), strict=True)
        return [Begun(*each) for each in begun]

    def _drawn(self, able: Ids, count: int) -> Ids:
        """So many of the clients that are able to begin."""
        ids = able[:0]
        while len(ids) < count:
            left = np.setdiff1d(able, ids) if len(ids) else able
            drawn = self._draw(self._draws, left).ids
            # A sampler that names nobody of them leaves it to the lot.
            more = drawn if len(drawn) else self._draw.by_lot(self._draws, left)
            ids = np.concatenate([ids, more])[:count]
            self._draws += 1
        return ids
