"""How long the clients of a simulation take, and so who takes part when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import (
    Algorithm,
    Client,
    Message,
    Pool,
    PyTree,
    Round,
    Server,
    Upload,
    Wire,
    examples,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.sampling import NOWHERE, Ids
from fedjax_kd.engine.arrivals import asynchronous
from fedjax_kd.engine.clock import Clock, Draw, Durations, DurationsOf, Timetable, synchronous
from fedjax_kd.engine.schedule import StepsOf
from fedjax_kd.engine.validation import Types
from fedjax_kd.errors import InputError
from fedjax_kd.losses.objectives import MICROBATCH

_MOST = np.iinfo(np.int32).max


class Timed(NamedTuple):
    """What the clock of a run decides."""

    timetable: Timetable
    most_steps: NDArray[np.int32] | None  # that each client has time for, [C]
    places: int  # for servers from which clients work on; 0 if all begin together


class Workers(NamedTuple):
    """The groups of clients of a simulation."""

    groups: Sequence[Algorithm]
    types: Sequence[Types]
    members: Sequence[Ids | range]  # client numbers of each group
    federation: Federation


def timed(clock: Clock, workers: Workers, draw: Draw, cohort_size: int, num_rounds: int) -> Timed:
    """The cohorts of a run in simulated time.

    Args:
      clock: the devices, and how long the server waits.
      workers: whose work takes time.
      draw: who is asked.
      cohort_size: clients K of a round.
      num_rounds: of the run.

    Raises:
      ValueError: if the clock does not fit the federation or the method.
    """
    _check(clock, workers, draw, cohort_size)
    durations = durations_of(clock, workers)
    if clock.concurrency is None:
        timetable = Timetable(synchronous(clock, draw, durations, cohort_size))
        return Timed(timetable, _limits(clock, durations, draw.population), 0)
    timetable = Timetable(asynchronous(clock, draw, durations, cohort_size))
    # One place at least: an array without any cannot be read from.
    return Timed(timetable, None, max(_places(timetable, num_rounds), 1))


def _places(timetable: Timetable, num_rounds: int) -> int:
    """Servers that are kept at the same time in a run of so many rounds."""

    def each() -> Iterator[int]:
        for number in range(num_rounds):
            starts = timetable.cohort(number).starts
            if starts is not None and starts.write != NOWHERE:
                yield starts.write + 1

    return max(each(), default=0)


def _limits(clock: Clock, durations: DurationsOf, population: int) -> NDArray[np.int32] | None:
    """The local steps that each client has time for before the deadline."""
    if not clock.limits_steps:
        return None
    # Those that do not depend on how many steps a round has.
    endless = durations(np.arange(population), 0)._replace(steps=np.full(population, float(_MOST)))
    return np.minimum(endless.steps_until(clock.deadline), _MOST).astype(np.int32)


def durations_of(clock: Clock, workers: Workers) -> DurationsOf:
    """How long clients need for a round: their local steps, and both messages on the wire.

    A message has the bytes that its types tell; where clients count their own, those of one client
    in round 0.
    """
    num_bytes = [_num_bytes(workers, g) for g in range(len(workers.groups))]
    devices = clock.devices

    def durations(ids: Ids, number: int) -> Durations:
        sizes = workers.federation.sizes_of(ids)
        steps, each, sent = np.zeros((3, len(ids)))
        for g, algorithm in enumerate(workers.groups):
            everyone = len(workers.groups) == 1
            ours = np.ones(len(ids), bool) if everyone else np.isin(ids, workers.members[g])
            own = sizes[ours], ids[ours], number
            steps[ours], each[ours] = _work(algorithm.work, *own, batch_size=clock.batch_size)
            sent[ours] = num_bytes[g]
        step = devices.training_seconds(ids, each)
        return Durations(sent / devices.bytes_per_second[ids], step, steps)

    return durations


def _work(
    work: StepsOf, sizes: NDArray[np.int64], ids: Ids, number: int, *, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Local steps of clients ``[k]``, and examples in a step of each ``[k]``."""
    steps = np.asarray(work(sizes, ids, number), np.float64)
    if work is examples:  # its unit is an example, since it is not known how it trains
        return steps, np.ones_like(sizes)
    if batch_size:
        return steps, np.full_like(sizes, batch_size)
    return steps / np.maximum(-(-sizes // MICROBATCH), 1), sizes


def _num_bytes(workers: Workers, group: int) -> int:
    """Bytes of both messages of one client of a group."""
    types, federation = workers.types[group], workers.federation
    sizes = types.bytes_up, types.bytes_down
    if types.upload.wire == Wire():
        return sum(sizes)
    first = jax.jit(partial(_first_upload, workers.groups[group], federation.num_clients))
    found = zip(first(federation.train, federation.public).wire, sizes, strict=True)
    return sum(known if own is None else int(own) for own, known in found)


def _first_upload(algorithm: Algorithm, population: int, pool: Pool, public: PyTree) -> Upload:
    """What client 0 sends in round 0."""
    key, number, cohort = jax.random.key(0), jnp.int32(0), jnp.zeros(1, jnp.int32)
    round = Round(number, cohort, jnp.ones(1), jnp.zeros(1), population, public)
    server: Server = algorithm.server_init(key)
    client: Client = algorithm.client_init(key, server)
    message: Message = algorithm.broadcast(server, number, round)
    return algorithm.client_update(key, message, client, pool.of(number), round)[0]


def _check(clock: Clock, workers: Workers, draw: Draw, cohort_size: int) -> None:
    """Raises ValueError if the clock does not fit the federation or the method."""
    known = len(clock.devices.forward_seconds)
    if known != draw.population:
        raise InputError(
            f"The clock has devices of {known} clients, but the federation has {draw.population}: "
            "give one device a client."
        )
    working = clock.concurrency or 0
    if max(cohort_size, working) > draw.population:
        raise InputError(
            f"The concurrency is {working}, but the federation has {draw.population} clients: "
            "choose a lower one."
        )
    if clock.limits_steps and any(a.work is examples for a in workers.groups):
        raise InputError(
            "late='partial' cuts local training by steps, but clients of this method do not train "
            "so: give late='drop'."
        )
    if working and any(a.choice is not None for a in workers.groups):
        raise InputError(
            "Clients are chosen among those of a cohort, but with a concurrency each begins alone: "
            "leave out the concurrency or the choice."
        )
    if working:
        _check_time_passes(clock, workers)


def _check_time_passes(clock: Clock, workers: Workers) -> None:
    """Raises ValueError if a client needs no time: the clock might stand still."""
    everyone = np.arange(len(clock.devices.forward_seconds))
    still = everyone[~(durations_of(clock, workers)(everyone, 0).seconds > 0)]
    if len(still):
        raise InputError(
            f"Client {still[0]} and {len(still) - 1} others need no time for a round, so that the "
            "clock would stand still: give forward_ms above 0 and clients with examples, or a "
            "finite bandwidth."
        )
