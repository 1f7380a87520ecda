"""Where the clients of a cohort are placed: on which device, in which chunk, in what order.

A chunk runs as long as its longest member, so clients are sorted by work, and a ragged cohort is
cut into chunks of several widths: few clients at once where work differs, many where it is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedjax_kd.data.sampling import Ids
from fedjax_kd.errors import InputError

StepsOf = Callable[[NDArray[np.int64], Ids, int], ArrayLike]
"""Examples of clients ``[k]``, their numbers ``[k]``, round number -> local steps, in any unit."""


class Chunks(NamedTuple):
    """The widths that chunks of clients may have, ascending, and what a step of each costs."""

    widths: tuple[int, ...]
    costs: tuple[float, ...]  # of one local step of a whole chunk, in any unit


class Placement(NamedTuple):
    """One group's cohort: the clients' numbers chunk by chunk, and the number of chunks.

    The narrow chunks come first. Empty slots hold the number ``population``. For a block of rounds
    both have a leading axis.
    """

    slots: Any  # int32 [devices * places]
    chunks: Any  # int32 [devices * widths]
    starts: Any = None  # `Starts` of int32 like the slots; None if all clients begin together


class Work(NamedTuple):
    """Local steps of a cohort: what its clients need, and what the device computes for them."""

    needed: float
    computed: float


def even_width(clients: int, widest: int) -> int:
    """The width of the fewest chunks of at most ``widest`` clients, as full as can be.

    Example:
      >>> even_width(50, widest=32)
      25
    """
    return -(-clients // -(-clients // widest))


def plan(work: Sequence[float], chunks: Chunks) -> tuple[int, ...]:
    """How many chunks of each width hold the clients at the least cost.

    Args:
      work: local steps of each client, descending.
      chunks: the widths to choose from, and the cost of a step of each.

    Returns:
      The number of chunks of each width. Narrow chunks take the clients with most work.

    Example:
      >>> plan([90, 8, 8, 8, 8], Chunks((1, 4), (1.0, 4.0)))
      (1, 1)
    """
    if len(chunks.widths) == 1:
        return (-(-len(work) // chunks.widths[0]),)
    # Narrow chunks come first: in a skewed cohort, work differs most among the first clients, and
    # every lane of a chunk runs as long as the longest, so a wide one there would waste the most.
    # With that order fixed, the best plan for the clients from `first` on does not depend on those
    # before them, and one pass for each width, from the widest to the narrowest, finds it.
    n, least = len(work), [np.inf] * len(work) + [0.0]
    chosen = []  # for each width, whether the best plan from a client on begins with such a chunk
    for width, cost in zip(reversed(chunks.widths), reversed(chunks.costs), strict=True):
        here = [False] * n
        for first in range(n - 1, -1, -1):
            total = cost * work[first] + least[min(first + width, n)]
            if total < least[first]:
                least[first], here[first] = total, True
        chosen.append(here)
    counts, first = [], 0
    for width, here in zip(chunks.widths, reversed(chosen), strict=True):
        count = 0
        while first < n and here[first]:
            first, count = first + width, count + 1
        counts.append(count)
    return tuple(counts)


def cost(work: Sequence[float], chunks: Chunks, counts: Sequence[int]) -> float:
    """What the chunks of a `plan` cost: each runs as long as its first, longest client."""
    total, first = 0.0, 0
    for width, cost, count in zip(*chunks, counts, strict=True):
        stop = first + count * width
        total += cost * sum(work[first:stop:width])
        first = stop
    return total


@dataclass(frozen=True)
class Layout:
    """How the cohorts of a run are placed on devices and in chunks, group by group.

    Attributes:
      population: clients C.
      members: client numbers of each group, ascending.
      capacity: clients of each group that one device must have slots for.
      chunks: the widths of each group's chunks.
      work: local steps by examples, a group.
      devices: size of the mesh axis ``clients``.
    """

    population: int
    members: tuple[Ids | range, ...]
    capacity: tuple[int, ...]
    chunks: tuple[Chunks, ...]
    work: tuple[StepsOf, ...]
    devices: int = 1

    def cut(self, chunks: Sequence[Chunks]) -> Layout:
        """The same layout in these chunks, one entry a group.

        Raises:
          ValueError: if widths are not positive and ascending.
        """
        for widths, _ in chunks:
            if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
                raise InputError(
                    f"chunk is {', '.join(map(str, widths))}, but at least 1 client must be "
                    "trained at a time: give one width, or several that ascend."
                )
        return replace(self, chunks=tuple(chunks))

    def limited(self, most: NDArray[np.int32] | None) -> Layout:
        """The same layout where no client works for more than ``most`` steps ``[C]``, if given."""
        if most is None:
            return self

        def capped(work: StepsOf) -> StepsOf:
            return lambda sizes, ids, number: np.minimum(work(sizes, ids, number), most[ids])

        return replace(self, work=tuple(map(capped, self.work)))

    def num_slots(self, group: int) -> int:
        """Slots of one device for a group, filled or not."""
        widths, capacity = self.chunks[group].widths, self.capacity[group]
        if len(widths) == 1:
            return -(-capacity // widths[0]) * widths[0]
        return capacity + widths[-1] - 1  # wherever the last chunk begins, it must end inside

    def place(
        self, ids: Ids, sizes: NDArray[np.int64], number: int = 0
    ) -> tuple[tuple[Placement, ...], Work]:
        """One cohort: the longest work first, dealt out to the devices in turn.

        Args:
          ids: the clients' numbers.
          sizes: the examples of each of them.
          number: of the round.
        """
        groups = [self._place_group(g, ids, sizes, number) for g in range(len(self.members))]
        each = [work for _, work in groups]
        total = Work(sum(w.needed for w in each), sum(w.computed for w in each))
        return tuple(placement for placement, _ in groups), total

    def deal(self, ids: Ids, sizes: NDArray[np.int64], number: int) -> list[Ids]:
        """The clients of one cohort that each device has."""
        groups = range(len(self.members))
        dealt = [[own for own, _ in self.deal_group(g, ids, sizes, number)] for g in groups]
        return [np.concatenate(own) for own in zip(*dealt, strict=True)]

    def deal_group(
        self, group: int, ids: Ids, sizes: NDArray[np.int64], number: int
    ) -> list[tuple[Ids, NDArray[np.float64]]]:
        """Each device's clients of one group, the longest work first, and their work."""
        members = self.members[group]
        if len(members) < self.population:
            ours = np.isin(ids, members)
            ids, sizes = ids[ours], sizes[ours]
        if len(ids) > self.capacity[group] * self.devices:
            raise InputError(
                f"A cohort has {len(ids)} clients of one group, but there is room for "
                f"{self.capacity[group] * self.devices}: give a cohort_size as large as the "
                "largest cohort of the sampler."
            )
        work = np.asarray(self.work[group](sizes, ids, number), np.float64)
        # Equal work is ordered by number, so that the order in which a sampler names the clients
        # changes nothing. Dealt in turn, each device has about the same work at the same place: all
        # of them wait for the slowest one at the end of the round.
        order = np.lexsort((ids, -work))
        each = [order[device :: self.devices] for device in range(self.devices)]
        return [(ids[own], work[own]) for own in each]

    def _place_group(
        self, group: int, ids: Ids, sizes: NDArray[np.int64], number: int
    ) -> tuple[Placement, Work]:
        chunks = self.chunks[group]
        # An empty slot holds the number after the last client's. It has no examples and no row of
        # state: a gather clips it, a scatter drops it, and its loops run zero times.
        slots = np.full((self.devices, self.num_slots(group)), self.population, np.int32)
        counts = np.zeros((self.devices, len(chunks.widths)), np.int32)
        each, needed, computed = Chunks(chunks.widths, chunks.widths), 0.0, 0.0
        for device, (own, work) in enumerate(self.deal_group(group, ids, sizes, number)):
            longest = work.tolist()
            counts[device] = plan(longest, chunks)
            slots[device, : len(own)] = own
            needed += sum(longest)
            computed += cost(longest, each, counts[device].tolist())
        return Placement(slots.reshape(-1), counts.reshape(-1)), Work(needed, computed)


def lay_out(
    members: Sequence[Ids | range],
    population: int,
    cohort_size: int,
    chunks: Sequence[Chunks],
    *,
    work: Sequence[StepsOf],
    devices: int = 1,
) -> Layout:
    """The layout of cohorts of at most ``cohort_size`` clients.

    Args:
      members: client numbers of each group, ascending.
      population: clients C.
      cohort_size: clients K of a cohort.
      chunks: widths and costs of each group's chunks.
      work: local steps by examples, a group.
      devices: to divide a cohort over.

    Raises:
      ValueError: if widths are not positive and ascending.

    Example:
      >>> layout = lay_out([range(10)], 10, 5, [Chunks((2,), (1.0,))], work=[lambda n, *_: n])
      >>> (placement,), needs = layout.place(np.array([4, 7, 1]), np.array([4, 7, 1]))
      >>> placement.slots
      array([ 7,  4,  1, 10, 10, 10], dtype=int32)
      >>> needs.computed / needs.needed
      1.33
    """
    capacity = tuple(-(-min(cohort_size, len(m)) // devices) for m in members)
    return Layout(population, tuple(members), capacity, (), tuple(work), devices).cut(chunks)
