"""How many points of a sweep run at once: by measuring, or by rule where that does not pay.

Configurations of one seed share their examples and batches, and all take the same number of steps,
so they come first; then come clients of a chunk, then seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedjax_kd.engine import autotune, chunk_width, schedule
from fedjax_kd.engine.autotune import Measured
from fedjax_kd.engine.block_inputs import draw_inputs
from fedjax_kd.engine.client_program import ClientProgram, client_program
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.sweeps.family import Family, given_of, placements_of, point_of
from fedjax_kd.sweeps.program import compiled
from fedjax_kd.sweeps.tiles import Width, tiles

_LOG = logging.getLogger("fedjax_kd")

# 2 CPU cores, jax 0.10: four points of a small CNN at once took 0.84 of the time of one after
# another, 24 took 1.25; an MLP 200-200 did not care; smaller ones gain up to some 30.
_LANES = 4
_MOST_LANES, _REPEATS = 4096, 2


def operations(family: Family, live: Collection[int], rounds: int) -> float:
    """About the operations of all points in so many rounds."""
    return _operations(family, _client_program(family), live, rounds)


def _operations(
    family: Family, program: ClientProgram, live: Collection[int], rounds: int
) -> float:
    s = family.first
    federation = s.federation
    some = range(min(rounds, 8))
    asked = [(s.cohort(n).ids, n) for n in some]
    steps_of = s.layout.work[0]
    work = [np.asarray(steps_of(federation.sizes_of(ids), ids, n)).sum() for ids, n in asked]
    return program.operations * float(np.mean(work)) * rounds * len(live)


def _client_program(family: Family) -> ClientProgram:
    """The program of one client of one point, not compiled."""
    s = family.first
    return client_program(s.groups[0], s.types[0], s.federation.train, s.federation.public)


def choose_width(family: Family, live: Collection[int], rounds: int) -> Width:
    """How many points and clients run at once; measured where a sweep is long.

    Args:
      family: the points.
      live: those that are left.
      rounds: that are still to be trained.
    """
    s, program = family.first, _client_program(family)
    if _operations(family, program, live, rounds) >= s.backend.long_run:
        points = sorted(map(len, family.rows(live).values()))
        about = ("sweep", s.layout.capacity, points)
        name = autotune.measurement_name(program.lowered, s.federation.train, *about)
        costs = autotune.remembered_costs(name, partial(measure_widths, family, live))
        if costs:
            return of_lanes(family, live, min(costs, key=lambda n: costs[n]))
    return of_lanes(family, live, max(program.lanes(s.backend), _LANES))


def of_lanes(family: Family, live: Collection[int], lanes: int) -> Width:
    """About so many local trainings at once: configurations first, then clients, then seeds."""
    rows = family.rows(live)
    configs = min(max(map(len, rows.values())), lanes)
    room = family.first.layout.capacity[0]
    clients = min(room, max(lanes // configs, 1))
    seeds = max(lanes // (configs * clients), 1) if clients == room else 1
    return Width(configs, min(seeds, len(rows)), schedule.even_width(room, clients))


def measure_widths(family: Family, live: Collection[int]) -> dict[int, float]:
    """Seconds of a round of one point by lanes, until more of them stop to pay or to fit."""

    def growing() -> Iterator[int]:
        lanes = 1
        while lanes <= _MOST_LANES:
            yield lanes
            if of_lanes(family, live, lanes).lanes < lanes:  # all that is left runs at once
                return
            lanes *= family.first.backend.sweep_growth

    def probe(lanes: int) -> Measured:
        width = of_lanes(family, live, lanes)
        seconds = _probe(family, live, width)
        _LOG.info("%s at once: %.3g s a round of a point", width, seconds)
        return Measured(seconds)

    return autotune.measure_growing(growing(), probe)


def with_width(s: Simulation, width: Width) -> Simulation:
    """The simulation in chunks of so many clients."""
    chunks = chunk_width.requested_chunks(s.backend, (width.clients,), s.layout.capacity[0])
    return replace(s, layout=s.layout.cut([chunks]))


def _probe(family: Family, live: Collection[int], width: Width) -> float:
    """Seconds of one round of one point, where a whole tile runs."""

    def short(s: Simulation) -> Simulation:
        return replace(with_width(s, width), block=1, eval_every=max(s.eval_every, 2))

    brief = replace(family, simulations={k: short(s) for k, s in family.simulations.items()})
    tile = tiles(brief.rows(live), width, family.devices)[0]
    inputs = {seed: draw_inputs(brief.simulations[seed], 0, None) for seed in set(tile.seeds)}
    given, placements = given_of(brief, tile), placements_of(tile, inputs)
    programs, point = compiled(brief, tile, given, placements), point_of(brief, tile)

    def arguments() -> tuple[Any, ...]:  # a block consumes its state
        return point, programs.start(point), given, placements, np.int32(0)

    seconds = autotune.least_seconds(programs.block, arguments, _REPEATS)
    return seconds / (tile.shape[0] * tile.shape[1])
