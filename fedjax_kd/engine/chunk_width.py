"""How many clients are trained at once: chosen by measuring, or by rule where that does not pay.

A wide chunk shares the overhead of each operation among many clients; a narrow one stays in the
cache and wastes less on clients that have finished. What wins depends on model, shapes and device.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_kd.backends import Backend
from fedjax_kd.core import Algorithm, Pool, PyTree, Round, SizeRange
from fedjax_kd.engine import autotune, memory, schedule
from fedjax_kd.engine.autotune import Measured
from fedjax_kd.engine.client_program import client_program
from fedjax_kd.engine.clients import RoundInputs, run_cohort
from fedjax_kd.engine.schedule import Chunks, Placement
from fedjax_kd.engine.validation import Types

Costs = Mapping[int, float]
"""Width of a chunk -> what one local step of the whole chunk costs, in any unit."""

_LOG = logging.getLogger("fedjax_kd")

_MOST_WIDTHS = 3  # each of them is compiled
_GAIN = 0.03  # of the cost, that a further width must save
_WASTE, _PRICE = 1.15, 0.1  # computed over needed steps to aim at, and the extra cost allowed
# A tax on every lane of a chunk, in units of what a lane costs, and the gain that a further width
# must bring under it. A tax is no real cost, so any gain under it is a step towards less waste.
_TAXES = ((0.0, _GAIN), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0))

# Runs of fewer operations than this are over before a second width has paid for its compilation.
_TINY_RUN = 1e11

_STEPS, _REPEATS, _TURNS, _WIDEST = 3, 3, 16, 4096
_PROBE, _LARGEST_PROBE = 1e10, 1e12  # operations of one repeat: aimed at, and at most


class Workload(NamedTuple):
    """One group's algorithm, its data, and the work of its cohorts in some rounds."""

    algorithm: Algorithm
    types: Types
    pool: Pool
    public: PyTree
    cohorts: Sequence[Sequence[float]]  # work of a device's clients in some rounds, descending
    rounds: int  # of the whole run
    backend: Backend

    @property
    def largest(self) -> int:
        """Clients of the largest cohort."""
        return max(map(len, self.cohorts), default=0)


def choose_chunks(workload: Workload) -> Chunks:
    """The widths of chunks for a group of clients.

    Long runs are worth a measurement, which is remembered beside the compilation cache; others
    follow a rule.
    """
    backend = workload.backend
    program = client_program(workload.algorithm, workload.types, workload.pool, workload.public)
    flops = program.operations
    steps = sum(map(sum, workload.cohorts)) / max(len(workload.cohorts), 1) * workload.rounds
    costs = assumed_costs(backend, program.lanes(backend), workload.largest)
    # Several processes must choose alike, and each would measure something else.
    if flops * steps >= backend.long_run and jax.process_count() == 1:
        name = autotune.measurement_name(program.lowered, workload.pool, workload.largest)
        costs = autotune.remembered_costs(name, partial(measure_costs, workload, flops)) or costs
    return cheapest(costs, workload.cohorts, most=1 if flops * steps < _TINY_RUN else _MOST_WIDTHS)


def cheapest(costs: Costs, cohorts: Sequence[Sequence[float]], most: int = _MOST_WIDTHS) -> Chunks:
    """The widths that train cohorts at the least cost; each further one must save some of it.

    Where it costs next to nothing, less waste (local steps computed for clients that have finished)
    is preferred: it leaves the device to others.

    Args:
      costs: of a step at each width that may be chosen.
      cohorts: work of the clients of some rounds, descending.
      most: widths to choose.

    Example:
      >>> costs = {1: 2.0, 4: 5.0}
      >>> cheapest(costs, [[2, 2, 2, 2]]).widths, cheapest(costs, [[90, 2, 2, 2, 2]]).widths
      ((4,), (1, 4))
    """
    # Where lanes are almost free, the cheapest plan may compute several times what is needed.
    # Plans under rising taxes on lanes lead from the cheapest one to the least wasteful; the first
    # that wastes little enough, at a true cost near that of the cheapest, is taken.
    lane = min(cost / width for width, cost in costs.items())
    found = [
        _greedy({w: cost + tax * lane * w for w, cost in costs.items()}, cohorts, most, gain)
        for tax, gain in _TAXES
    ]
    truly = [_spent(chunks, costs, cohorts) for chunks in found]
    lanes = {width: float(width) for width in costs}
    for chunks, cost in zip(found, truly, strict=True):
        wasted = _spent(chunks, lanes, cohorts) / max(sum(map(sum, cohorts)), 1)
        if wasted <= _WASTE and cost <= (1 + _PRICE) * truly[0]:
            return chunks
    return found[0]


def _greedy(costs: Costs, cohorts: Sequence[Sequence[float]], most: int, gain: float) -> Chunks:
    """The best width, and one after another those that save most, if it is more than ``gain``."""

    def of(*widths: int) -> Chunks:
        return Chunks(tuple(sorted(widths)), tuple(costs[w] for w in sorted(widths)))

    # Greedy, since every set that is tried is planned for all clients of all cohorts: of the 298
    # sets of up to three that a dozen widths have, this tries 33 at most.
    best = min(map(of, costs), key=lambda chunks: _spent(chunks, costs, cohorts))
    while len(best.widths) < min(most, len(costs)):
        further = [of(*best.widths, width) for width in costs if width not in best.widths]
        candidate = min(further, key=lambda chunks: _spent(chunks, costs, cohorts))
        if _spent(candidate, costs, cohorts) >= (1 - gain) * _spent(best, costs, cohorts):
            break
        best = candidate
    return best


def _spent(chunks: Chunks, costs: Costs, cohorts: Sequence[Sequence[float]]) -> float:
    """The cost of cohorts that are planned by the chunks' own costs, counted by ``costs``."""
    counted = chunks._replace(costs=tuple(costs[width] for width in chunks.widths))
    return sum(schedule.cost(w, counted, schedule.plan(w, chunks)) for w in cohorts)


def assumed_costs(backend: Backend, widest: int, clients: int) -> Costs:
    """What a step costs by rule.

    Args:
      backend: that runs it.
      widest: clients at once, at most.
      clients: of the largest cohort.
    """
    return {width: backend.step_overhead + width for width in ladder(clients, widest)}


def ladder(clients: int, widest: int) -> list[int]:
    """Widths worth considering, ascending: powers of 2, and the fewest chunks of equal width.

    Example:
      >>> ladder(50, widest=32)
      [1, 2, 4, 8, 16, 25]
    """
    top = schedule.even_width(max(clients, 1), widest)
    return [w for w in (2**n for n in range(top.bit_length())) if w < top] + [top]


def requested_chunks(backend: Backend, widths: Sequence[int], clients: int) -> Chunks:
    """The widths that the user asked for, none wider than the largest cohort needs.

    Example:
      >>> from fedjax_kd.backends import backend_of
      >>> requested_chunks(backend_of("cpu"), [32], clients=50).widths
      (25,)
    """
    if len(widths) == 1 and widths[0] >= 1:
        widths = (schedule.even_width(max(clients, 1), widths[0]),)
    return Chunks(tuple(widths), tuple(backend.step_overhead + width for width in widths))


def narrower(chunks: Chunks) -> Chunks:
    """The same, at half the widest width.

    Example:
      >>> narrower(Chunks((1, 8), (2.0, 9.0)))
      Chunks(widths=(1, 4), costs=(2.0, 4.5))
    """
    widest = chunks.widths[-1]
    costs = dict(zip(chunks.widths[:-1], chunks.costs[:-1], strict=True))
    costs.setdefault(max(widest // 2, 1), chunks.costs[-1] / 2)
    return Chunks(tuple(sorted(costs)), tuple(costs[w] for w in sorted(costs)))


def measure_costs(workload: Workload, flops: float) -> dict[int, float]:
    """Seconds of a local step at growing widths, until wider chunks stop to pay or to fit."""
    sizes = _short_clients(workload)
    work = float(np.max(np.asarray(workload.algorithm.work(sizes, np.arange(len(sizes)), 0))))

    def probe(width: int) -> Measured:
        turns = int(min(max(_PROBE / (max(flops, 1) * work * width), 1), _TURNS))
        seconds, needed = _probe(workload, sizes, width, turns)
        _LOG.info("chunks of %d clients: %.3g s a step", width, seconds / work)
        return Measured(seconds / work / width, needed)

    every = ladder(workload.largest, _WIDEST)
    # Every second width is compiled: the cost of one in between hardly differs from the line
    # through its neighbours.
    tried = takewhile(lambda w: flops * work * w <= _LARGEST_PROBE, [*every[:-1:2], every[-1]])
    costs = {w: cost * w for w, cost in autotune.measure_growing(tried, probe).items()}
    known = sorted(costs)
    between = [w for w in every if known and w <= known[-1]]
    return {w: float(np.interp(w, known, [costs[k] for k in known])) for w in between}


def _short_clients(workload: Workload) -> np.ndarray:
    """The sizes of the pool's clients, cut down so that each takes a few steps only."""
    sizes = np.asarray(workload.pool.sizes, np.int64)
    some = np.arange(1, max(int(sizes.max()), 1) + 1)
    work = np.asarray(workload.algorithm.work(some, np.zeros_like(some), 0), np.float64)
    return np.minimum(sizes, some[work <= max(_STEPS, work[0])][-1])


def _known(workload: Workload, sizes: np.ndarray) -> SizeRange | None:
    """The sizes of clients that were cut down, if loops over the whole ones have a known length."""
    whole = SizeRange.of(np.asarray(workload.pool.sizes, np.int64))
    work = workload.algorithm.work(np.array([whole.smallest, whole.largest]), np.zeros(2, int), 0)
    alike = len(set(np.asarray(work).tolist())) == 1
    return SizeRange.of(sizes) if workload.backend.fixed_loops and alike else None


def _probe(workload: Workload, sizes: np.ndarray, width: int, turns: int) -> tuple[float, int]:
    """Seconds that one chunk of the clients with most examples takes, and the bytes it needs.

    Several chunks run in turn, so that the start of the program does not count.
    """
    algorithm = workload.algorithm
    pool = workload.pool._replace(sizes=jnp.asarray(sizes, jnp.int32))
    most = np.argsort(-sizes, kind="stable")
    slots = jnp.asarray(np.resize(most, width * turns), jnp.int32)
    key = jax.random.key(0)
    server = jax.jit(algorithm.server_init)(key)
    clients = jax.jit(jax.vmap(lambda k: algorithm.client_init(k, server)))(
        jax.random.split(key, width * turns)
    )

    def phase(server: PyTree, clients: PyTree, pool: Pool, public: PyTree, slots: jax.Array) -> Any:
        there = jnp.ones(width * turns, jnp.float32)
        round = Round(jnp.int32(0), slots, there, jnp.zeros_like(there), len(sizes), public)
        inputs = RoundInputs(key, server, pool, round, workload.backend, _known(workload, sizes))
        return run_cohort(
            algorithm, (width,), inputs, clients, Placement(slots, jnp.ones(1, jnp.int32))
        )

    arguments = (server, clients, pool, workload.public, slots)
    program = jax.jit(phase).lower(*arguments).compile()
    seconds = autotune.least_seconds(program, lambda: arguments, _REPEATS)
    return seconds / turns, memory.needed(program)
