"""The program of a sweep: a block of rounds of many points at once, as one jitted function.

A point is a federation in training. Its hyper-parameters and its seed are arguments of the program;
points of one seed share clients, examples and batches, which therefore have no axis of points. So
the vectorised axes are, from outside in: seeds S, configurations H, and the clients of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from fedjax_kd import tree
from fedjax_kd.core import Pool, PyTree, State
from fedjax_kd.engine import memory
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.blocks import block_of
from fedjax_kd.engine.evaluation import Evaluation, Pools, evaluation_of, pools_of
from fedjax_kd.engine.round import Report, Resident
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.sweeps.family import Family, Given, Point, point_of
from fedjax_kd.sweeps.tiles import Tile

POINTS = "points"  # the mesh axis over which points are divided


class Programs(NamedTuple):
    """The compiled functions of tiles of one shape; states have leaves ``[S, H, ...]``."""

    start: Callable[[Point], State]
    evaluate: Callable[[Point, State, Given], Evaluation]
    block: Callable[..., tuple[State, tuple[Report, Evaluation | None]]]


def compiled(family: Family, tile: Tile, given: Given, placements: Any) -> Programs:
    """The programs of tiles like this one.

    Raises:
      TooLargeError: if the device has no memory for them.
    """
    point, shape = point_of(family, tile), tile.shape
    axes = _axes(given)

    def program(function: Callable[..., Any], *arguments: str, **how: Any) -> Any:
        one = partial(function, family)
        return jax.jit(_over_points(one, [axes[a] for a in arguments], shape, family.mesh), **how)

    start = program(_start, "point").lower(point).compile()
    state = start(point)
    evaluate = program(_evaluate, "point", "state", "given").lower(point, state, given).compile()
    block = program(_block, "point", "state", "given", "placements", "number", donate_argnums=1)
    lowered = block.lower(point, state, given, placements, np.int32(0))
    run = lowered.compile(compiler_options=family.first.backend.compiler_options)
    memory.check_fits(run)
    return Programs(start, evaluate, run)


def alike_at_first(family: Family, tile: Tile) -> bool:
    """Whether the evaluation of the initial model depends on the seed alone."""
    point, s = point_of(family, tile), family.first
    values = {name: np.float32(numbers[0, 0]) for name, numbers in point.values.items()}

    def evaluate(values: Any, rest: tuple[Any, Pools]) -> Evaluation:
        seed, pools = rest
        own = Point(values, seed)
        return evaluation_of(_simulation(family, own))(_start(family, own), pools)

    return not any(jax.tree.leaves(tree.reads(evaluate, values, (point.seed[0], pools_of(s)))))


def _simulation(family: Family, point: Point) -> Simulation:
    """The simulation of one point, its numbers traced."""
    own: dict[str, Any] = {"groups": (family.make(point.values),), "seed": point.seed}
    return replace(family.first, **own)


def _start(family: Family, point: Point) -> State:
    return initial_state(_simulation(family, point))


def _evaluate(family: Family, point: Point, state: State, given: Given) -> Evaluation:
    # One point after another: the rows of a test set fill any device by themselves.
    @jax.custom_batching.sequential_vmap
    def evaluate(point: Point, state: State, given: Given) -> Evaluation:
        return evaluation_of(_simulation(family, point))(state, given.pools)

    return evaluate(point, state, given)


def _block(family: Family, point: Point, state: State, given: Given, *now: Any) -> Any:
    return block_of(_simulation(family, point))(state, given.resident, given.pools, *now)


def _axes(given: Given) -> dict[str, tuple[PyTree, PyTree]]:
    """Which parts of each argument have an axis of configurations, and which one of seeds."""
    owned = Pool._make((None, None, 0, 0, 0))
    own = None if given.pools.client_test is None else owned
    data = Given(Resident(owned, None), Pools._make((owned, None, own, None, None)))
    return {
        "point": (Point._make((0, None)), 0),
        "state": (0, 0),
        "given": (None, data),
        "placements": (None, 0),
        "number": (None, None),
    }


def _over_points(
    one: Callable[..., Any],
    axes: Sequence[tuple[PyTree, PyTree]],
    shape: tuple[int, int],
    mesh: Mesh | None,
) -> Callable[..., Any]:
    """A function of one point as one of a tile of ``shape`` points, divided over the devices."""
    configs, seeds = (tuple(each) for each in zip(*axes, strict=True))
    if mesh is None:
        return _mapped(_mapped(one, configs, shape[1]), seeds, shape[0])
    axis = divided_axis(shape, mesh)
    here = [n // mesh.size if i == axis else n for i, n in enumerate(shape)]
    spread = spread_over(shape, mesh)
    specs = jax.tree.map(
        lambda mapped: PartitionSpec() if mapped is None else spread,
        configs if axis else seeds,
        is_leaf=_is_none,
    )
    # check_vma: points have nothing to do with each other, so there is nothing to track.
    return jax.shard_map(
        _mapped(_mapped(one, configs, here[1]), seeds, here[0]),
        mesh=mesh,
        in_specs=specs,
        out_specs=spread,
        check_vma=False,
    )


def divided_axis(shape: tuple[int, int], mesh: Mesh) -> int:
    """The axis of a tile that devices divide: configurations (1) if that comes out even."""
    return 1 if shape[1] % mesh.size == 0 else 0


def spread_over(shape: tuple[int, int], mesh: Mesh) -> PartitionSpec:
    """How arrays ``[S, H, ...]`` lie on the devices."""
    return PartitionSpec(*[None] * divided_axis(shape, mesh), POINTS)


def _mapped(function: Callable[..., Any], axes: PyTree, size: int) -> Callable[..., Any]:
    """``vmap`` by the first axis of what is mapped; without it, where that axis has length 1."""
    if size > 1:
        return jax.vmap(function, axes)

    def alone(*args: Any) -> Any:
        only = jax.tree.map(
            lambda axis, part: part if axis is None else jax.tree.map(lambda a: a[0], part),
            axes,
            args,
            is_leaf=_is_none,
        )
        return jax.tree.map(lambda a: a[None], function(*only))

    return alone


def _is_none(axis: Any) -> bool:
    return axis is None
