"""Training the points of a sweep together, block by block of rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fedjax_kd import tree
from fedjax_kd.core import State
from fedjax_kd.engine import memory
from fedjax_kd.engine.block_inputs import BlockInputs, draw_inputs
from fedjax_kd.engine.evaluation import Evaluation
from fedjax_kd.engine.prefetch import prefetched
from fedjax_kd.engine.round import Report
from fedjax_kd.sweeps.family import Family, Given, Point, given_of, placements_of, point_of
from fedjax_kd.sweeps.halving import diverged
from fedjax_kd.sweeps.program import Programs, alike_at_first, compiled, spread_over
from fedjax_kd.sweeps.tiles import Tile, Width, halved_width, places, shaped, tiles
from fedjax_kd.sweeps.widths import with_width
from fedjax_kd.train import Row, Seconds, evaluates_after, evaluation_row, rows_of

_SHARE = 0.25  # of the free memory may hold the states of all points

States = Mapping[int, State]
"""The state of each point, on the host."""
TileInputs = Mapping[int, BlockInputs]
"""What a block of rounds is given, by seed."""

PointRows = dict[int, list[Row]]
"""Rows of a block, by point."""


class Step(NamedTuple):
    """Points after a block of rounds. ``states`` is valid until the next block begins."""

    finished: int  # rounds
    rows: PointRows  # of this block; none of points that diverged before
    left: frozenset[int]  # points that have not diverged
    seconds: Seconds  # since the training was started or resumed
    states: Callable[[], dict[int, State]]  # of the points that are left


class TileState(NamedTuple):
    """A tile and the states of its points, leaves ``[S, H, ...]``."""

    tile: Tile
    point: Point
    given: Given
    state: State


class BlockResult(NamedTuple):
    """What came of a block of a tile."""

    start: int  # its first round
    state: State
    reports: Report
    inside: Evaluation | None  # evaluations in the block, leaves [S, H, evaluations, ...]
    after: Evaluation | None  # the evaluation at its end


class Prepared(NamedTuple):
    """Tiles, their programs, and the first tile's next block, which might not have fit."""

    family: Family  # its cohorts cut into the chunks that fit
    loads: list[TileState]
    programs: Programs
    came: BlockResult
    compiling: float  # seconds
    trying: float  # seconds that the first tile's block took


def train_points(
    family: Family,
    live: Collection[int],
    width: Width,
    *,
    first: int = 0,
    until: int,
    states: States | None = None,
) -> Iterator[Step]:
    """Trains points from round ``first`` to round ``until``, and yields after every block.

    Points whose training diverges are dropped. Before the first round, rows numbered 0 with the
    evaluation of the initial models are yielded.

    Args:
      family: the points.
      live: which of them are trained.
      width: how many at once; fewer, after a warning, if the device has no memory for so many.
      first: rounds that they have behind them.
      until: a multiple of the block and of the rounds between evaluations, or the last round.
      states: of the points, unless they begin.
    """
    left, finished, spent = set(live), first, Seconds()
    ready = _ready(family, left, width, states, first)
    spent = _plus(spent, compile=ready.compiling, train=ready.trying)
    if states is None:
        rows, seconds = _timed(_initial_rows, ready)
        spent = _plus(spent, evaluate=seconds)
        yield Step(0, rows, frozenset(left), spent, partial(_states, ready.loads, left))
    starts = range(first, until, family.first.block)
    with closing(prefetched(partial(_feeds, ready.family), starts)) as blocks:
        for feeds in blocks:
            (rows, loads), seconds = _timed(_block, ready, feeds, left)
            spent = _plus(spent, train=seconds)
            left -= {point for point, new in rows.items() if diverged(new)}
            finished = min(finished + family.first.block, until)
            yield Step(finished, rows, frozenset(left), spent, partial(_states, loads, left))
            if not left:
                return
            ready = _closed_up(ready._replace(loads=loads), left)


def _closed_up(ready: Prepared, left: Collection[int]) -> Prepared:
    """The same points in fewer tiles, where enough of them were lost."""
    laid = shaped(ready.family.rows(left), ready.loads[0].tile.shape)
    if len(laid) == len(ready.loads):
        return ready
    states = _states(ready.loads, left)
    givens = [given_of(ready.family, tile) for tile in laid]
    return ready._replace(loads=_loads(ready.family, ready.programs, laid, givens, states))


def _plus(spent: Seconds, **more: float) -> Seconds:
    return spent._replace(**{name: getattr(spent, name) + value for name, value in more.items()})


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(*args), time.perf_counter() - began


def _feeds(family: Family, start: int) -> TileInputs:
    return {seed: draw_inputs(s, start, None) for seed, s in family.simulations.items()}


def _ready(
    family: Family, live: Collection[int], width: Width, states: States | None, first: int
) -> Prepared:
    """Everything for the next rounds, with as many points at once as the device has memory for."""
    return memory.narrow_until_it_fits(
        lambda width: _attempt(family, live, width, states, first),
        width,
        halved_width,
        lanes=lambda width: width.lanes,
        named="{} local trainings at once",
    )


def _attempt(
    family: Family, live: Collection[int], width: Width, states: States | None, first: int
) -> Prepared:
    """Compiles the programs, and runs the first tile's block on a copy of its state."""
    ours = {seed: with_width(s, width) for seed, s in family.simulations.items()}
    family, began = replace(family, simulations=ours), time.perf_counter()
    laid, feeds = tiles(family.rows(live), width, family.devices), _feeds(family, first)
    givens = [given_of(family, tile) for tile in laid]
    programs = compiled(family, laid[0], givens[0], placements_of(laid[0], feeds))
    seconds = time.perf_counter() - began
    loads = _loads(family, programs, laid, givens, states)
    trial = loads[0]._replace(state=jax.tree.map(jnp.copy, loads[0].state))
    began = time.perf_counter()
    came = jax.block_until_ready(_advanced(family, programs, trial, feeds))
    return Prepared(family, loads, programs, came, seconds, time.perf_counter() - began)


def _loads(
    family: Family,
    programs: Programs,
    laid: Sequence[Tile],
    givens: Sequence[Given],
    states: States | None,
) -> list[TileState]:
    """Tiles with the states of their points, or in their first state."""
    loads = []
    for tile, given in zip(laid, givens, strict=True):
        point = point_of(family, tile)
        state = programs.start(point) if states is None else _placed(family, tile, states)
        loads.append(TileState(tile, point, given, _parked(state, len(laid))))
    return loads


def _advanced(
    family: Family, programs: Programs, load: TileState, feeds: TileInputs
) -> BlockResult:
    """A block of rounds of one tile."""
    start = next(iter(feeds.values())).start
    state, (reports, inside) = programs.block(
        load.point, load.state, load.given, placements_of(load.tile, feeds), np.int32(start)
    )
    s = family.first
    due = evaluates_after(s, min(start + s.block, s.num_rounds))
    return BlockResult(
        start, state, reports, inside, programs.look(load.point, state, load.given) if due else None
    )


def _block(
    ready: Prepared, feeds: TileInputs, left: Collection[int]
) -> tuple[PointRows, list[TileState]]:
    """A block of rounds of all tiles: its rows, and the tiles after it."""
    rows: PointRows = {}
    loads = []
    for n, load in enumerate(ready.loads):
        if not any(point in left for _, _, point in places(load.tile)):
            loads.append(load)
            continue
        begun = n == 0 and ready.came.start == next(iter(feeds.values())).start
        came = ready.came if begun else _advanced(ready.family, ready.programs, load, feeds)
        loads.append(load._replace(state=_parked(came.state, len(ready.loads))))
        rows |= _rows(ready.family, load.tile, feeds, came)
    return {point: new for point, new in rows.items() if point in left}, loads


def _rows(family: Family, tile: Tile, feeds: TileInputs, came: BlockResult) -> PointRows:
    """The rows of each point of a tile."""
    seen = jax.device_get((came.reports, came.inside, came.after))
    rows = {}
    for i, j, point in places(tile):
        reports, inside, after = jax.tree.map(lambda a, i=i, j=j: a[i, j], seen)
        s = family.simulations[tile.seeds[i]]
        rows[point] = rows_of(s, feeds[s.seed], reports, inside)
        if after is not None:
            rows[point][-1] |= evaluation_row(after)
    return rows


def _initial_rows(ready: Prepared) -> PointRows:
    """The evaluation of the initial models, once a seed where it decides alone."""
    rows: PointRows = {}
    found: dict[int, Row] = {}  # by seed where it decides alone, else by point
    alike = len(ready.loads) > 1 and alike_at_first(ready.family, ready.loads[0].tile)
    for load in ready.loads:
        keys = {point: load.tile.seeds[i] if alike else point for i, _, point in places(load.tile)}
        if not found.keys() >= set(keys.values()):
            seen = jax.device_get(ready.programs.look(load.point, load.state, load.given))
        for i, j, point in places(load.tile):
            if keys[point] not in found:
                own = jax.tree.map(lambda a, i=i, j=j: a[i, j], seen)
                found[keys[point]] = evaluation_row(own)
            rows[point] = [{"round": 0} | found[keys[point]]]
    return rows


def _parked(state: State, num_tiles: int) -> State:
    """The state of a tile, on the host if those of all tiles would take too much of the device."""
    room = memory.free()
    large = room is not None and tree.num_bytes(state) * num_tiles > _SHARE * room
    return jax.device_get(state) if large and num_tiles > 1 else state


def _states(loads: Sequence[TileState], left: Collection[int]) -> dict[int, State]:
    """The state of each point that is left, on the host."""
    found = {}
    for load in loads:
        state = jax.device_get(load.state)
        for i, j, point in places(load.tile):
            if point in left:
                found[point] = jax.tree.map(lambda a, i=i, j=j: a[i, j], state)
    return found


def _placed(family: Family, tile: Tile, states: States) -> State:
    """The states of a tile's points, stacked on the device."""
    each = [[states[point] for point in row] for row in tile.points]
    rows = [jax.tree.map(lambda *a: np.stack(a), *row) for row in each]
    whole = jax.tree.map(lambda *a: np.stack(a), *rows)
    if family.mesh is None:
        return jax.device_put(whole)
    return jax.device_put(whole, NamedSharding(family.mesh, spread_over(tile.shape, family.mesh)))
