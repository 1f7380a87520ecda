"""What a compiled program does, counted kernel by kernel and loop by loop."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Set
from typing import NamedTuple


from benchmarks.accelerators import loops
from benchmarks.accelerators.arithmetic import operations
from benchmarks.accelerators.hlo import Computation, Instruction, Module
from benchmarks.accelerators.targets import Target
from benchmarks.accelerators.traffic import moved, padded_in_memory

# Instructions that are no work of a device.
_FREE = frozenset(
    """parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id
    opt-barrier copy-done async-done async-update slice-done all-reduce-done add-dependency domain
    get-dimension-size""".split()
)
_RESERVES_MEMORY = "AllocateBuffer"


class Costs(NamedTuple):
    """Of a part of a program."""

    kernels: int = 0  # and copies
    products: int = 0  # kernels with matrix products or convolutions in them
    operations: int = 0  # of these
    bytes: int = 0  # moved between memory and kernels; of whole tiles on a TPU
    roofline_us: float = 0.0  # the longer of operations and bytes at the device's rates, summed
    xla_us: float = 0.0  # XLA's own estimate
    unestimated: int = 0  # kernels of which XLA estimates nothing
    waits: int = 0  # of the host for the device
    unknown: int = 0  # loops of which XLA does not know the length, each time that one starts

    def __add__(self, other: Costs) -> Costs:  # type: ignore[override]
        return Costs(*map(operator.add, self, other))

    def times(self, turns: int) -> Costs:
        """Of so many turns."""
        return Costs(*(turns * value for value in self))


class Loop(NamedTuple):
    """A ``while`` in a program."""

    turns: int | None  # None if only the run can tell
    body: Part
    condition: Costs  # of asking once
    start: Costs  # of starting it
    functions: tuple[str, ...]  # of Python in which it was traced, from the innermost on


class Part(NamedTuple):
    """A computation: what it does itself, and the loops in it."""

    own: Costs
    loops: tuple[Loop, ...]


def read(module: Module, target: Target, on_device: Set[str] = frozenset()) -> Part:
    """The costs of a compiled program.

    Args:
      module: the program.
      target: the device that it was compiled for.
      on_device: loops and conditionals that a GPU's command buffers take care of.
    """
    return _part(module, module.entry, target, on_device)


def total(part: Part, turns: int) -> Costs:
    """The costs of a part with its loops multiplied out, ``turns`` for an unknown length."""
    sums = part.own
    for loop in part.loops:
        count = turns if loop.turns is None else loop.turns
        each = total(loop.body, turns) + loop.condition
        sums += loop.start + each.times(count)
    return sums


def outermost(part: Part, function: str) -> Iterator[Loop]:
    """Loops that were traced inside a Python function, not counting those inside of others."""
    for loop in part.loops:
        if function in loop.functions:
            yield loop
        else:
            yield from outermost(loop.body, function)


def _part(module: Module, where: Computation, target: Target, on_device: Set[str]) -> Part:
    own, found = Costs(), []
    for i in where:
        if i.opcode == "while":
            found.append(_loop(module, where, i, target, on_device))
        elif i.opcode == "conditional":
            waits = target.platform == "gpu" and i.name not in on_device
            branches = [
                _part(module, module.computations[b], target, on_device) for b in i.branches
            ]
            # Ours tell a round whose uploads are not finite, which does more, from all others.
            usual = min(branches, key=lambda branch: total(branch, 1).kernels)
            own += usual.own + Costs(waits=int(waits))
            found += usual.loops
        elif i.opcode == "call":
            inner = _part(module, module.computations[i.called or ""], target, on_device)
            own += inner.own
            found += inner.loops
        elif _is_work(i, target):
            own += _kernel(module, where, i, target)
    return Part(own, tuple(found))


def _loop(
    module: Module, where: Computation, i: Instruction, target: Target, on_device: Set[str]
) -> Loop:
    body, condition = (
        _part(module, module.computations[i.attribute(name) or ""], target, on_device)
        for name in ("body", "condition")
    )
    turns = loops.length(module, where, i)
    # Of a length that it was not told, a GPU's host asks before each turn and after the last; a TPU
    # runs all loops itself.
    asks = target.platform == "gpu" and loops.told_length(i) is None
    waits = Costs(waits=int(asks and i.name not in on_device))
    unknown = Costs(unknown=int(turns is None or asks))
    asking = condition.own._replace(kernels=0) if not asks else condition.own
    functions = tuple(module.functions_of(i))
    return Loop(turns, body, asking + waits, waits + unknown, functions)


def _is_work(i: Instruction, target: Target) -> bool:
    if i.opcode in _FREE or i.custom_target == _RESERVES_MEMORY:
        return False
    scalar = all(shape.elements == 1 for shape in i.shapes)
    # A TPU computes single numbers beside its kernels.
    on_scalar_core = target.platform == "tpu" and i.opcode not in ("fusion", "custom-call")
    return not (scalar and on_scalar_core)


def _kernel(module: Module, where: Computation, i: Instruction, target: Target) -> Costs:
    done, size = operations(module, where, i), moved(module, where, i)
    padded = moved(module, where, i, padded_in_memory) if target.platform == "tpu" else size
    estimate = _estimate(i, target)
    return Costs(
        kernels=1,
        products=int(done > 0),
        operations=done,
        bytes=padded,
        roofline_us=1e6 * max(done / target.operations, size / target.bandwidth),
        xla_us=estimate or 0.0,
        unestimated=int(estimate is None),
    )


def _estimate(i: Instruction, target: Target) -> float | None:
    """Microseconds of one kernel by XLA's own cost model; None where it has none."""
    if target.platform == "tpu":
        cycles = re.search(r'"estimated_cycles":"(\d+)"', i.attributes)
        return 1e6 * int(cycles[1]) / target.hertz if cycles and int(cycles[1]) else None
    times = re.findall(r'"exec_time_us":([\d.e+\-]+)[^}]*"name":"([^"]*)"', i.attributes)
    return next((float(spent) for spent, name in times if not name), None)


def largest(found: Iterator[Loop], turns: int) -> Costs | None:
    """One turn of the loop with the most kernels a turn; None if there is none."""
    return max(
        (total(loop.body, turns) for loop in found), key=lambda costs: costs.kernels, default=None
    )
