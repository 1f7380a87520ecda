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
"""The inputs of a block of rounds, by seed."""

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
    """The results of one block of rounds of a tile."""

    start: int  # its first round
    state: State
    reports: Report
    inside: Evaluation | None  # evaluations in the block, leaves [S, H, evaluations, ...]
    after: Evaluation | None  # the evaluation at its end


class Prepared(NamedTuple):
    """Tiles and their programs, which fit the device: the first tile has run its next block."""

    family: Family  # its cohorts cut into the chunks that fit
    tile_states: list[TileState]  # before that block
    programs: Programs
    first_result: BlockResult  # of that block
    compile_seconds: float
    train_seconds: float  # of that block


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
    prepared = _prepare(family, left, width, states, first)
    spent = _plus(spent, compile=prepared.compile_seconds, train=prepared.train_seconds)
    if states is None:
        rows, seconds = _timed(_initial_rows, prepared)
        spent = _plus(spent, evaluate=seconds)
        yield Step(0, rows, frozenset(left), spent, partial(_states, prepared.tile_states, left))
    starts = range(first, until, family.first.block)
    with closing(prefetched(partial(_block_inputs, prepared.family), starts)) as blocks:
        for inputs in blocks:
            (rows, tile_states), seconds = _timed(_run_tiles, prepared, inputs, left)
            spent = _plus(spent, train=seconds)
            left -= {point for point, new in rows.items() if diverged(new)}
            finished = min(finished + family.first.block, until)
            yield Step(finished, rows, frozenset(left), spent, partial(_states, tile_states, left))
            if not left:
                return
            prepared = _compacted(prepared._replace(tile_states=tile_states), left)


def _compacted(prepared: Prepared, left: Collection[int]) -> Prepared:
    """The same points in fewer tiles, where enough of them were lost."""
    tiling = shaped(prepared.family.rows(left), prepared.tile_states[0].tile.shape)
    if len(tiling) == len(prepared.tile_states):
        return prepared
    states = _states(prepared.tile_states, left)
    givens = [given_of(prepared.family, tile) for tile in tiling]
    fewer = _tile_states(prepared.family, prepared.programs, tiling, givens, states)
    return prepared._replace(tile_states=fewer)


def _plus(spent: Seconds, **more: float) -> Seconds:
    return spent._replace(**{name: getattr(spent, name) + value for name, value in more.items()})


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(*args), time.perf_counter() - began


def _block_inputs(family: Family, start: int) -> TileInputs:
    return {seed: draw_inputs(s, start, None) for seed, s in family.simulations.items()}


def _prepare(
    family: Family, live: Collection[int], width: Width, states: States | None, first: int
) -> Prepared:
    """Tiles and programs, with as many points at once as the device has memory for."""
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
    tiling, inputs = tiles(family.rows(live), width, family.devices), _block_inputs(family, first)
    givens = [given_of(family, tile) for tile in tiling]
    programs = compiled(family, tiling[0], givens[0], placements_of(tiling[0], inputs))
    seconds = time.perf_counter() - began
    tile_states = _tile_states(family, programs, tiling, givens, states)
    trial = tile_states[0]._replace(state=jax.tree.map(jnp.copy, tile_states[0].state))
    began = time.perf_counter()
    result = jax.block_until_ready(_run_block(family, programs, trial, inputs))
    return Prepared(family, tile_states, programs, result, seconds, time.perf_counter() - began)


def _tile_states(
    family: Family,
    programs: Programs,
    tiling: Sequence[Tile],
    givens: Sequence[Given],
    states: States | None,
) -> list[TileState]:
    """Tiles with the given states of their points, or else their initial ones."""
    tile_states = []
    for tile, given in zip(tiling, givens, strict=True):
        point = point_of(family, tile)
        state = programs.start(point) if states is None else _stacked(family, tile, states)
        tile_states.append(TileState(tile, point, given, _parked(state, len(tiling))))
    return tile_states


def _run_block(
    family: Family, programs: Programs, tile_state: TileState, inputs: TileInputs
) -> BlockResult:
    """A block of rounds of one tile."""
    s, start = family.first, next(iter(inputs.values())).start
    tile, point, given, state = tile_state
    placements = placements_of(tile, inputs)
    state, (reports, inside) = programs.block(point, state, given, placements, np.int32(start))
    due = evaluates_after(s, min(start + s.block, s.num_rounds))
    after = programs.evaluate(point, state, given) if due else None
    return BlockResult(start, state, reports, inside, after)


def _run_tiles(
    prepared: Prepared, inputs: TileInputs, left: Collection[int]
) -> tuple[PointRows, list[TileState]]:
    """A block of rounds of all tiles: its rows, and the tiles after it."""
    rows: PointRows = {}
    family, before = prepared.family, prepared.tile_states
    after = []
    for n, tile_state in enumerate(before):
        if not any(point in left for _, _, point in places(tile_state.tile)):
            after.append(tile_state)
            continue
        start = next(iter(inputs.values())).start
        if n == 0 and prepared.first_result.start == start:
            result = prepared.first_result
        else:
            result = _run_block(family, prepared.programs, tile_state, inputs)
        after.append(tile_state._replace(state=_parked(result.state, len(before))))
        rows |= _rows(family, tile_state.tile, inputs, result)
    return {point: new for point, new in rows.items() if point in left}, after


def _rows(family: Family, tile: Tile, inputs: TileInputs, result: BlockResult) -> PointRows:
    """The rows of each point of a tile."""
    seen = jax.device_get((result.reports, result.inside, result.after))
    rows = {}
    for i, j, point in places(tile):
        reports, inside, after = jax.tree.map(lambda a, i=i, j=j: a[i, j], seen)
        s = family.simulations[tile.seeds[i]]
        rows[point] = rows_of(s, inputs[s.seed], reports, inside)
        if after is not None:
            rows[point][-1] |= evaluation_row(after, s)
    return rows


def _initial_rows(prepared: Prepared) -> PointRows:
    """The evaluation of the initial models; once a seed where it depends on nothing else."""
    rows: PointRows = {}
    found: dict[int, Row] = {}  # by seed where it depends on nothing else, else by point
    tile_states = prepared.tile_states
    alike = len(tile_states) > 1 and alike_at_first(prepared.family, tile_states[0].tile)
    for tile, arguments, given, state in tile_states:
        keys = {point: tile.seeds[i] if alike else point for i, _, point in places(tile)}
        if not found.keys() >= set(keys.values()):
            seen = jax.device_get(prepared.programs.evaluate(arguments, state, given))
        for i, j, point in places(tile):
            if keys[point] not in found:
                own = jax.tree.map(lambda a, i=i, j=j: a[i, j], seen)
                found[keys[point]] = evaluation_row(own, prepared.family.first)
            rows[point] = [{"round": 0} | found[keys[point]]]
    return rows


def _parked(state: State, num_tiles: int) -> State:
    """The state of a tile, on the host if those of all tiles would take too much of the device."""
    room = memory.free()
    large = room is not None and tree.num_bytes(state) * num_tiles > _SHARE * room
    return jax.device_get(state) if large and num_tiles > 1 else state


def _states(tile_states: Sequence[TileState], left: Collection[int]) -> dict[int, State]:
    """The state of each point that is left, on the host."""
    found = {}
    for tile, _, _, state in tile_states:
        on_host = jax.device_get(state)
        for i, j, point in places(tile):
            if point in left:
                found[point] = jax.tree.map(lambda a, i=i, j=j: a[i, j], on_host)
    return found


def _stacked(family: Family, tile: Tile, states: States) -> State:
    """The states of a tile's points, stacked on the device."""
    each = [[states[point] for point in row] for row in tile.points]
    rows = [jax.tree.map(lambda *a: np.stack(a), *row) for row in each]
    whole = jax.tree.map(lambda *a: np.stack(a), *rows)
    if family.mesh is None:
        return jax.device_put(whole)
    return jax.device_put(whole, NamedSharding(family.mesh, spread_over(tile.shape, family.mesh)))
