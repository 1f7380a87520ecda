"""The points of a sweep that one program can run, and the arguments of that program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt32

from fedjax_kd.core import Algorithm, Pool, PyTree, Scalar, SizeRange
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.block_inputs import BlockInputs
from fedjax_kd.engine.evaluation import Pools, pools_of
from fedjax_kd.engine.mesh import replicate
from fedjax_kd.engine.round import Resident
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError
from fedjax_kd.sweeps.tiles import Tile

Make = Callable[[Mapping[str, Scalar]], Algorithm]
"""Values of hyper-parameters, which may be traced -> the algorithm."""


class Member(NamedTuple):
    """One point: a configuration, by number and by its hyper-parameters, and a seed."""

    config: int
    seed: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """Points that one program can run: they differ in numbers and seeds alone.

    Attributes:
      make: the algorithm by its hyper-parameters.
      members: the points by number.
      simulations: by seed; all of one layout, with examples that all of them share.
      mesh: devices to divide points over.
    """

    make: Make
    members: Mapping[int, Member]
    simulations: Mapping[int, Simulation]
    mesh: Mesh | None = None

    @property
    def first(self) -> Simulation:
        """The simulation that stands for all where they are alike."""
        return next(iter(self.simulations.values()))

    @property
    def devices(self) -> int:
        """Devices that points are divided over."""
        return 1 if self.mesh is None else self.mesh.size

    def rows(self, live: Collection[int]) -> dict[int, list[int]]:
        """The points of each seed, of those that are left."""
        return {
            seed: [p for p in sorted(live) if self.members[p].seed == seed]
            for seed in self.simulations
        }


class Point(NamedTuple):
    """The hyper-parameters and seeds that distinguish the points of a tile."""

    values: dict[str, Any]  # float32 [S, H]
    seed: UInt32[np.ndarray, " S"]


class Given(NamedTuple):
    """The data that the points of one seed share."""

    resident: Resident
    pools: Pools


def family_of(
    make: Make,
    members: Mapping[int, Member],
    simulations: Mapping[int, Simulation],
    mesh: Mesh | None = None,
) -> Family:
    """Points whose examples are shared, on all devices.

    Raises:
      ValueError: if the seeds' simulations cannot run in one program.
    """
    first, *others = simulations.values()
    _check(first, others)
    own = {seed: sharing(first.federation, s.federation) for seed, s in simulations.items()}
    parts = {seed: (f.train, f.test, f.client_test, f.public) for seed, f in own.items()}
    placed = replicate(parts, mesh)

    def ready(seed: int, s: Simulation) -> Simulation:
        train, test, client_test, public = placed[seed]
        changed = replace(own[seed], train=train, test=test, client_test=client_test, public=public)
        return replace(s, federation=changed)

    most = max(s.test_capacity for s in simulations.values())
    sizes = _of_all([s.sizes for s in simulations.values()])
    alike = {
        seed: replace(ready(seed, s), test_capacity=most, sizes=sizes)
        for seed, s in simulations.items()
    }
    return Family(make, members, alike, mesh)


def _of_all(ranges: Sequence[SizeRange | None]) -> SizeRange | None:
    """The range of the clients of all seeds."""
    known = [each for each in ranges if each is not None]
    if not known:
        return None
    return SizeRange(min(r.smallest for r in known), max(r.largest for r in known))


def sharing(first: Federation, other: Federation) -> Federation:
    """The other federation, with the examples of the first where they are the same."""

    def shared(ours: Pool, theirs: Pool) -> Pool:
        alike = _same((ours.x, ours.y), (theirs.x, theirs.y))
        return theirs._replace(x=ours.x, y=ours.y) if alike else theirs

    train, test, own = (
        shared(first.train, other.train),
        shared(first.test, other.test),
        other.client_test,
    )
    if own is not None:
        source = test if _are_one(own.x, other.test.x) else train
        own = own._replace(x=source.x)
        if str(jax.tree.structure(own.y)) == str(jax.tree.structure(source.y)):
            own = own._replace(y=source.y)
    return replace(other, train=train, test=test, client_test=own)


def _same(ours: PyTree, theirs: PyTree) -> bool:
    """Whether two trees have equal arrays."""
    return len(jax.tree.leaves(ours)) == len(jax.tree.leaves(theirs)) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )


def _are_one(ours: PyTree, theirs: PyTree) -> bool:
    """Whether two trees hold the very same arrays."""
    return [id(a) for a in jax.tree.leaves(ours)] == [id(a) for a in jax.tree.leaves(theirs)]


def _check(first: Simulation, others: Sequence[Simulation]) -> None:
    """Raises ValueError unless these simulations differ in who holds what, and in seeds, alone."""
    if first.federation.store is not None:
        raise InputError(
            "A sweep needs its examples on the device, but these clients are streamed from a "
            "store: take fewer of them from arrays or files, or run the points one by one."
        )
    if len(first.groups) > 1 or first.engine == "python":
        raise InputError(
            "A sweep runs one algorithm on the engine 'jit', not several groups of clients or the "
            "engine 'python': run such points one by one."
        )
    for s in others:
        ours, theirs = ((f.federation.train.x, f.federation.train.y) for f in (first, s))
        if not _same(ours, theirs):
            raise InputError("The seeds of a sweep must divide the same examples among clients.")
        if s.layout.population != first.layout.population:
            raise InputError(
                f"The split of seed {s.seed} makes {s.layout.population} clients, and that of seed "
                f"{first.seed} {first.layout.population}: give the data a seed of its own "
                "(--data-seed), so that all points share one split."
            )


def point_of(family: Family, tile: Tile) -> Point:
    """The hyper-parameters and seeds of a tile."""
    each = [[family.members[point].values for point in row] for row in tile.points]
    values = {
        name: np.array([[own[name] for own in row] for row in each], np.float32)
        for name in each[0][0]
    }
    return Point(values, np.array(tile.seeds, np.uint32))


def given_of(family: Family, tile: Tile) -> Given:
    """The data of all seeds of a tile, each shared array once."""
    every = {seed: pools_of(s) for seed, s in family.simulations.items()}
    each, test = [every[seed] for seed in tile.seeds], every[tile.seeds[0]].test

    def stacked(own: Callable[[Pools], Pool]) -> Pool:
        longest = max(len(own(pools).rows) for pools in every.values())
        return _stacked([own(pools) for pools in each], longest)

    train, own = stacked(lambda pools: pools.train), None
    if each[0].client_test is not None:
        own = stacked(lambda pools: pools.client_test or pools.test)
    public = family.first.federation.public
    first = every[tile.seeds[0]]
    return Given(
        Resident(train, public), Pools(train, test, own, first.validation, first.triggered)
    )


def _stacked(pools: Sequence[Pool], longest: int) -> Pool:
    """Pools of the same examples, divided over clients in another way for each seed."""
    rows = [jnp.pad(pool.rows, (0, longest - len(pool.rows))) for pool in pools]
    starts, sizes = jnp.stack([p.starts for p in pools]), jnp.stack([p.sizes for p in pools])
    return Pool(pools[0].x, pools[0].y, jnp.stack(rows), starts, sizes)


def placements_of(tile: Tile, inputs: Mapping[int, BlockInputs]) -> Any:
    """Where the clients of a block are placed, for each seed of a tile."""
    return jax.tree.map(lambda *a: np.stack(a), *[inputs[seed].placements for seed in tile.seeds])
