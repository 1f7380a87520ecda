"""How often the loops of a compiled program run."""

from __future__ import annotations

import re

from benchmarks.accelerators.hlo import Computation, Instruction, Module

_PASSED_ON = ("copy", "bitcast")


def told_length(loop: Instruction) -> int | None:
    """The number of turns that XLA has found itself; without it, a GPU's host asks every turn."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    return int(found[1]) if found else None


def length(module: Module, where: Computation, loop: Instruction) -> int | None:
    """The turns of a ``while``, or None if only the run can tell.

    TPU programs do not note them down; they follow from a condition that compares a counter, which
    starts at a constant and grows by one, with a constant.
    """
    told = told_length(loop)
    if told is not None:
        return told
    condition = module.computations[loop.attribute("condition") or ""]
    found = _compared(module, condition)
    if found is None:
        return None
    (inner, compare), outside = found
    counter, bound = (0, 1) if compare.attribute("direction") == "LT" else (1, 0)

    def side(number: int, started: Instruction | None) -> int | None:
        name = compare.operands[number]
        given = inner.instructions[name]
        if outside is not None and given.opcode == "parameter":
            return _value(module, condition, outside.operands[int(given.arguments)], started)
        return _value(module, inner, name, started)

    first, last = side(counter, loop), side(bound, None)
    return None if first is None or last is None else max(last - first, 0)


def _compared(
    module: Module, condition: Computation
) -> tuple[tuple[Computation, Instruction], Instruction | None] | None:
    """Where a loop's condition compares two numbers, and the fusion around it, if there is one."""
    root = condition.root
    outside = root if root.opcode == "fusion" else None
    inner = condition if outside is None else module.computations[outside.called or ""]
    compare = inner.root
    if compare.opcode != "compare" or compare.attribute("direction") not in ("LT", "GT"):
        return None
    return (inner, compare), outside


def _value(
    module: Module, where: Computation, name: str, started: Instruction | None
) -> int | None:
    """The number that a scalar has; None if it is computed.

    Args:
      module: the program.
      where: the computation in which the scalar is.
      name: of the scalar.
      started: a loop in which the number is meant that it has before the first turn.
    """
    i = _origin(where, name)
    if i.opcode == "constant":
        return int(i.arguments) if re.fullmatch(r"-?\d+", i.arguments.strip()) else None
    above = module.callers.get(where.name)
    if i.opcode != "get-tuple-element" or above is None or above[1].opcode != "while":
        return None
    outer, loop = above
    entry = int(i.attribute("index") or 0)
    start = outer.instructions[loop.operands[0]]
    is_known = loop is started or _is_kept(module, loop, entry)
    if start.opcode != "tuple" or not is_known:
        return None
    return _value(module, outer, start.operands[entry], started)


def _origin(where: Computation, name: str) -> Instruction:
    """The instruction of a computation that made a value, or took it from what was handed in."""
    i = where.instructions[name]
    if i.opcode in _PASSED_ON:
        return _origin(where, i.operands[0])
    if i.opcode == "get-tuple-element":
        source = where.instructions[i.operands[0]]
        if source.opcode == "tuple":
            return _origin(where, source.operands[int(i.attribute("index") or 0)])
    return i


def _is_kept(module: Module, loop: Instruction, entry: int) -> bool:
    """Whether every turn of a loop hands an entry of its state on as it was."""
    body = module.computations[loop.attribute("body") or ""]
    if body.root.opcode != "tuple":
        return False
    i = _origin(body, body.root.operands[entry])
    if i.opcode != "get-tuple-element" or i.attribute("index") != str(entry):
        return False
    return body.instructions[i.operands[0]].opcode == "parameter"
