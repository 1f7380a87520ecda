"""Simulated time: when the clients of a round are done, and who is waited for.

Nothing here looks at a real clock: times follow from the devices, the local work and the bytes of
messages, so that a schedule depends on the seed alone and a resumed run meets the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.devices import Devices
from fedjax_kd.data.sampling import Cohort, Ids, Sampler, participants, restricted
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Late = Literal["drop", "partial"]


@checks_options
@dataclass(frozen=True)
class Clock:
    """The devices of the clients, and how long the server waits for them.

    Rounds are synchronous, unless ``concurrency`` is given: then the server makes a step whenever
    ``cohort_size`` uploads have arrived, and so many clients work at any time, each from the server
    as it was when the client began (FedBuff; with a ``cohort_size`` of 1, FedAsync).

    Args:
      devices: of all clients, from `fedjax_kd.data.devices`.
      batch_size: examples in a local step, >= 0; 0 for all examples of a client.
      deadline: seconds after which a round ends, > 0; without one the slowest client is waited for.
      late: what becomes of clients that are not done by then: "drop" leaves them out, "partial"
        takes the steps that they had time for, if any.
      over_commitment: factor on the clients that are asked, >= 1; the first ``cohort_size`` that
        are done make the round.
      concurrency: clients that work at any time, >= 1, for asynchronous training.
      max_staleness: server steps, >= 0, after which an upload is thrown away; never if not given.

    Raises:
      ValueError: if a number is out of its range, or has no meaning beside the others.

    Source: Bonawitz et al., 2019, arXiv:1902.01046 (over-commitment); Li et al., 2020,
    arXiv:1812.06127 (partial work); Nguyen et al., 2022, arXiv:2106.06639 (FedBuff).
    """

    devices: Devices
    batch_size: int = 20
    deadline: float | None = None
    late: Late = "drop"
    over_commitment: float = 1.0
    concurrency: int | None = None
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        check_choice("late", self.late, Late)
        if self.concurrency is not None:
            if self.deadline is not None or self.over_commitment != 1:
                raise InputError(
                    f"With concurrency={self.concurrency} the server never waits for a cohort, so "
                    "that a deadline or over_commitment has no meaning: leave these out, or the "
                    "concurrency."
                )
        elif self.max_staleness is not None:
            raise InputError(
                f"max_staleness is {self.max_staleness}, but in synchronous rounds nothing is "
                "stale: give the concurrency of asynchronous training, too."
            )

    def asked(self, cohort_size: int, population: int) -> int:
        """Clients that a round asks so that ``cohort_size`` of them are done in time.

        Raises:
          ValueError: if the population has fewer.
        """
        asked = int(self.over_commitment * cohort_size)
        if asked > max(population, cohort_size):
            raise InputError(
                f"over_commitment is {self.over_commitment}, so that {asked} clients are asked for "
                f"a cohort of {cohort_size}, but there are {population}: lower one of these."
            )
        return asked

    @property
    def limits_steps(self) -> bool:
        """Whether clients may have time for some of their local steps only."""
        return self.deadline is not None and self.late == "partial"


class Durations(NamedTuple):
    """What clients ``[k]`` need for a round."""

    transmission: NDArray[np.float64]  # seconds of both messages
    step: NDArray[np.float64]  # seconds of a local step
    steps: NDArray[np.float64]  # of a whole round

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Of the whole round."""
        return self.transmission + self.step * self.steps

    def steps_until(self, deadline: float | None) -> NDArray[np.float64]:
        """Local steps that are done by a deadline; none if the messages alone take longer."""
        if deadline is None:
            return self.steps
        with np.errstate(divide="ignore", invalid="ignore"):
            time_for = np.floor((deadline - self.transmission) / self.step)
        # Where a step takes no time, all are done unless the messages alone come too late.
        time_for = np.where(self.step > 0, time_for, np.inf)
        time_for = np.where(self.transmission <= deadline, time_for, 0)
        return np.minimum(time_for, self.steps)


DurationsOf = Callable[[Ids, int], Durations]
"""(clients, round number) -> what they need for that round"""


class Draw(NamedTuple):
    """Who is asked, as the sampler says."""

    sampler: Sampler
    population: int
    seed: int
    dropout_rate: float = 0.0

    def __call__(self, number: int, online: Ids | None = None) -> Cohort:
        """The clients of a draw that answer, among those online if these are given."""
        asked = self.sampler if online is None else restricted(self.sampler, online)
        return participants(asked, self.population, self.seed, number, self.dropout_rate)

    def by_lot(self, number: int, some: Ids) -> Ids:
        """One of some clients, each as likely as any other."""
        return np.random.default_rng([self.seed, number, 1]).choice(some, 1)

    def online(self, devices: Devices, seconds: float) -> Ids | None:
        """Who is online at a time; None if everyone is at any time."""
        everyone = np.arange(self.population)
        return None if devices.traces is None else everyone[devices.online(everyone, seconds)]


class Timetable:
    """The cohorts of a run in simulated time, found one after another when they are asked for."""

    def __init__(self, cohorts: Iterator[Cohort]) -> None:
        self._cohorts, self._known, self._lock = cohorts, list[Cohort](), Lock()

    def cohort(self, number: int) -> Cohort:
        """Who takes part in a round; any thread may ask."""
        with self._lock:
            while len(self._known) <= number:
                self._known.append(next(self._cohorts))
            return self._known[number]


def synchronous(
    clock: Clock, draw: Draw, durations: DurationsOf, cohort_size: int
) -> Iterator[Cohort]:
    """The cohorts of synchronous rounds: those that are done in time.

    A client is left out if it is offline at the moment when it would be done, and it is not asked
    if it is offline when the round begins. If nobody reports, the round ends at its deadline.

    Args:
      clock: how long the server waits.
      draw: who is asked.
      durations: what clients need for a round.
      cohort_size: clients K that make a round; of more, the first that are done.
    """
    now, number = 0.0, 0
    while True:
        online = draw.online(clock.devices, now)
        asked = draw(number, online)
        needed = durations(asked.ids, number)
        kept, late, offline, done = _reported(clock, asked.ids, needed, now, cohort_size)
        if len(asked.ids):
            enough = kept.sum() == min(cohort_size, len(kept))
            spent = float(done[kept if kept.any() else ~kept].max())
            if clock.deadline is not None and not enough:
                spent = clock.deadline
        elif clock.deadline is not None:
            spent = clock.deadline
        else:
            spent = clock.devices.next_online(np.arange(draw.population), now) - now
        now, number = now + spent, number + 1
        facts = {
            "simulated_seconds": now,
            "late": float(late.sum()),
            "offline": float(offline.sum()),
            "wasted_seconds": float(done[~kept].sum()),
        }
        yield Cohort(asked.ids[kept], {**asked.facts, **facts}, unheard=asked.ids[~kept])


def _reported(
    clock: Clock, ids: Ids, needed: Durations, now: float, cohort_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Whose uploads are used, who is too late, who is offline, and when each stops working."""
    done = needed.steps_until(clock.deadline)
    limit = math.inf if clock.deadline is None else clock.deadline
    in_time = (done >= needed.steps) & (needed.transmission <= limit)
    stops = np.where(in_time, needed.seconds, limit)
    heard = in_time | (done >= 1) if clock.late == "partial" else in_time
    online = clock.devices.online(ids, now + stops)
    # Of those that are done at the same time the lower numbers come first.
    first = np.lexsort((ids, stops))
    first = first[(heard & online)[first]][:cohort_size]
    kept = np.zeros(len(ids), bool)
    kept[first] = True
    return kept, online & ~kept, ~online, stops
