"""The inputs of a block of rounds: which clients take part, and their examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from fedjax_kd.data.sampling import Cohort, Ids
from fedjax_kd.data.store import ClientStore
from fedjax_kd.data.window import Window, WindowSize, make_window, window_size
from fedjax_kd.engine.block_cohorts import block_cohorts
from fedjax_kd.engine.mesh import assemble, divide
from fedjax_kd.engine.round import Resident
from fedjax_kd.engine.schedule import Placement, Work
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError


class BlockInputs(NamedTuple):
    """The inputs of one block of R rounds."""

    start: int
    asked: Int[np.ndarray, "R G"]  # clients of each group
    unheard: Int[np.ndarray, "R G"]  # further ones that received a message
    refused: Int[np.ndarray, "R G"]  # those of them whose upload came too late
    work: list[Work]  # of each round
    cohorts: list[Cohort]  # of each round
    placements: tuple[Placement, ...]  # each on the devices of its clients
    resident: Resident


def draw_inputs(s: Simulation, start: int, size: WindowSize | None) -> BlockInputs:
    """The clients of the block that begins with round ``start``, and their examples.

    It only copies to the devices of this process, so a thread may call it at any time.
    """
    drawn = block_cohorts(
        s.cohort,
        s.layout,
        s.federation.sizes_of,
        first=start,
        rounds=s.block,
        last=s.num_rounds,
    )
    _check_facts(s.facts, drawn.cohorts)
    slots = [group.slots for group in drawn.groups]
    asked = np.stack([(a < s.layout.population).sum(axis=1) for a in slots], axis=1)
    store = s.federation.store
    resident = Resident(s.federation.train, s.federation.public)
    if store is not None and size is not None:
        resident = resident._replace(pool=_window(s, store, slots, size))
    return BlockInputs(
        start,
        asked,
        _of_groups(s, [cohort.unheard for cohort in drawn.cohorts]),
        _of_groups(s, [cohort.refused for cohort in drawn.cohorts]),
        drawn.work,
        drawn.cohorts,
        divide(drawn.groups, s.mesh),
        resident,
    )


def _of_groups(s: Simulation, rounds: list[Ids]) -> Int[np.ndarray, "R G"]:
    """How many of some clients of each round are in each group."""
    return np.array([[np.isin(ids, m).sum() for m in s.layout.members] for ids in rounds])


def _check_facts(names: tuple[str, ...], cohorts: list[Cohort]) -> None:
    """Raises ValueError if a sampler tells other facts than in the first round."""
    for cohort in cohorts:
        if set(cohort.facts) != set(names):
            raise InputError(
                f"The sampler tells {sorted(cohort.facts)} of a round, but {sorted(names)} of the "
                "first one: these are columns, so let it tell the same facts of every round."
            )


def largest_window(s: Simulation, first: int) -> WindowSize | None:
    """Room on a device for the largest block of a run whose examples are streamed."""
    if s.federation.store is None:
        return None

    def each() -> Iterator[NDArray[np.int64]]:
        # From round 0 on, so that a resumed run has the same program.
        for start in range(first % s.block, s.num_rounds, s.block):
            rounds = range(start, min(start + s.block, s.num_rounds))
            dealt = [s.layout.deal(asked(n), s.federation.sizes_of(asked(n)), n) for n in rounds]
            yield from map(np.concatenate, zip(*dealt, strict=True))

    def asked(number: int) -> NDArray[np.int64]:
        return s.cohort(number).ids

    return window_size(s.federation.store, each())


def _window(
    s: Simulation, store: ClientStore, slots: list[Int[np.ndarray, "R K"]], size: WindowSize
) -> Window:
    """The examples of a block's clients; on a mesh, each device has those of its own clients."""

    def of_device(number: int) -> Window:
        own = [np.split(a, s.layout.devices, axis=1)[number] for a in slots]
        return make_window(store, np.concatenate(own, axis=1), size)

    return jax.device_put(of_device(0)) if s.mesh is None else assemble(of_device, s.mesh)
