"""What a compiled program does, counted kernel by kernel and loop by loop."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.accelerators import loops
from benchmarks.accelerators.arithmetic import operations
from benchmarks.accelerators.hlo import Computation, Instruction, Module
from benchmarks.accelerators.targets import Target
from benchmarks.accelerators.traffic import moved, padded_in_memory

# Instructions that are no work of a device.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "domain"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency", "get-dimension-size"),
}
_WAITED_FOR = ("-done", "-update")  # ends of what an instruction "-start" has started
_RESERVES_MEMORY = "AllocateBuffer"


class Costs(NamedTuple):
    """Of a part of a program; means over rounds need not be whole numbers."""

    kernels: float = 0  # and copies
    products: float = 0  # kernels with matrix products or convolutions in them
    operations: float = 0  # of these
    bytes: float = 0  # moved between memory and kernels; of whole tiles on a TPU
    roofline_us: float = 0  # the longer of operations and bytes at the device's rates, summed
    xla_us: float = 0  # XLA's own estimate
    unestimated: float = 0  # kernels of which XLA estimates nothing
    waits: float = 0  # of the host for the device
    unknown: float = 0  # starts of loops whose length XLA does not know

    def plus(self, other: Costs) -> Costs:
        """Of both."""
        return Costs(*map(operator.add, self, other))

    def times(self, turns: float) -> Costs:
        """Of so many turns."""
        return Costs(*(turns * value for value in self))


class Part(NamedTuple):
    """A computation: what it does itself, and the loops in it."""

    own: Costs
    loops: tuple[Loop, ...]


class Loop(NamedTuple):
    """A ``while`` in a program."""

    turns: int | None  # None if only the run can tell
    body: Part
    each: Costs  # of asking whether to go on, beside each turn
    start: Costs  # of asking for the first time
    functions: tuple[str, ...]  # of Python in which it was traced, from the innermost on


def total(part: Part, turns: int) -> Costs:
    """The costs of a part with its loops multiplied out, ``turns`` for an unknown length."""
    sums = part.own
    for loop in part.loops:
        count = turns if loop.turns is None else loop.turns
        inside = total(loop.body, turns).plus(loop.each)
        sums = sums.plus(loop.start).plus(inside.times(count))
    return sums


def outermost(part: Part, function: str) -> Iterator[Loop]:
    """Loops that were traced inside a Python function, not counting those inside of others."""
    for loop in part.loops:
        if function in loop.functions:
            yield loop
        else:
            yield from outermost(loop.body, function)


def largest(found: Iterator[Loop], turns: int) -> Costs | None:
    """One turn of the loop with the most kernels a turn; None if there is none."""
    return max(
        (total(loop.body, turns) for loop in found), key=lambda costs: costs.kernels, default=None
    )


@dataclass(frozen=True)
class Reader:
    """Reads the costs of a compiled program.

    Attributes:
      module: the program.
      target: the device that it was compiled for.
      on_device: loops and conditionals of which a GPU's command buffers take care.
    """

    module: Module
    target: Target
    on_device: Set[str] = frozenset()

    def program(self) -> Part:
        """The whole of it."""
        return self._part(self.module.entry)

    def _part(self, where: Computation) -> Part:
        own: Costs = Costs()
        found: list[Loop] = []
        for i in where:
            if i.opcode == "while":
                found.append(self._loop(where, i))
            elif i.opcode in ("conditional", "call"):
                inner = self._usual(i)
                own = own.plus(inner.own).plus(Costs(waits=self._host_asks(i)))
                found += inner.loops
            elif self._is_work(i):
                own = own.plus(self._kernel(where, i))
        return Part(own, tuple(found))

    def _usual(self, i: Instruction) -> Part:
        """What a call runs; of a conditional the branch that does least.

        The engine's own conditionals tell a round whose uploads are not finite from all others.
        """
        names = i.branches or [i.called or ""]
        parts = [self._part(self.module.computations[name]) for name in names]
        return min(parts, key=lambda part: total(part, 1).kernels)

    def _loop(self, where: Computation, i: Instruction) -> Loop:
        body, condition = (
            self._part(self.module.computations[i.attribute(name) or ""])
            for name in ("body", "condition")
        )
        asks = Costs(waits=self._host_asks(i))
        told = loops.told_length(i) is not None
        turns = loops.length(self.module, where, i)
        # Of a length that it was told, a GPU counts without asking the condition; a TPU has both
        # beside its kernels.
        each = asks if told else asks.plus(condition.own)
        start = asks._replace(unknown=int(turns is None))
        return Loop(turns, body, each, start, tuple(self.module.functions_of(i)))

    def _host_asks(self, i: Instruction) -> int:
        """Whether a GPU's host waits for the answer before it goes on; TPUs decide themselves."""
        alone = self.target.platform == "tpu" or i.name in self.on_device
        told = i.opcode == "call" or loops.told_length(i) is not None
        return int(not (alone or told))

    def _is_work(self, i: Instruction) -> bool:
        free = i.opcode in _FREE or i.opcode.endswith(_WAITED_FOR)
        if free or i.custom_target == _RESERVES_MEMORY:
            return False
        scalar = all(shape.elements == 1 for shape in i.shapes)
        # A TPU computes single numbers beside its kernels.
        beside = self.target.platform == "tpu" and i.opcode not in ("fusion", "custom-call")
        return not (scalar and beside)

    def _kernel(self, where: Computation, i: Instruction) -> Costs:
        target = self.target
        done, size = operations(self.module, where, i), moved(self.module, where, i)
        tiles = moved(self.module, where, i, padded_in_memory) if target.platform == "tpu" else size
        estimate = _estimate(i, target)
        return Costs(
            kernels=1,
            products=int(done > 0),
            operations=done,
            bytes=tiles,
            roofline_us=1e6 * max(done / target.operations, size / target.bandwidth),
            xla_us=estimate or 0,
            unestimated=int(estimate is None),
        )


def _estimate(i: Instruction, target: Target) -> float | None:
    """Microseconds of one kernel by XLA's own cost model; None where it has none."""
    if target.platform == "tpu":
        cycles = re.search(r'"estimated_cycles":"(\d+)"', i.attributes)
        return 1e6 * int(cycles[1]) / target.hertz if cycles and int(cycles[1]) else None
    times = re.findall(r'"exec_time_us":([\d.e+\-]+)[^}]*"name":"([^"]*)"', i.attributes)
    return next((float(spent) for spent, name in times if not name), None)
