"""The bytes that compiled instructions read from and write to a device's memory."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.accelerators.hlo import Computation, Instruction, Module, Shape

Size = Callable[[Shape], int]
"""A shape -> its bytes"""

_SLICES = ("dynamic-slice", "gather", "slice")
_FUSIONS = ("fusion", "fusion-start")
_FAST = "S(1)"  # a TPU's vector memory


def in_memory(shape: Shape) -> int:
    """Bytes of an array; none of what stays in a TPU's own fast memory."""
    return 0 if _FAST in shape.layout else shape.bytes


def padded_in_memory(shape: Shape) -> int:
    """The same, of whole tiles."""
    return 0 if _FAST in shape.layout else shape.padded_bytes


def moved(module: Module, where: Computation, i: Instruction, size: Size = in_memory) -> int:
    """Bytes that an instruction reads and writes.

    A slice of an operand is all that is read of it, and an update in place all that is written.
    """
    if i.opcode in _FUSIONS:
        inner = module.computations[i.called or ""]
        read = sum(_read(module, inner, n, size) for n in range(len(i.operands)))
        return read + sum(_written(inner, output, size) for output in _outputs(inner))
    operands = where.operands(i)
    if i.opcode == "dynamic-update-slice":
        return _total(operands[1].shapes, size) + _written(where, i, size)
    results = _total(_results(i, operands), size)
    if i.opcode in _SLICES:
        return _within(i.shapes[0], operands[0].shapes[0], size) + results
    return sum(_total(operand.shapes, size) for operand in operands) + results


def _total(shapes: tuple[Shape, ...], size: Size) -> int:
    return sum(map(size, shapes))


def _within(part: Shape, whole: Shape, size: Size) -> int:
    """Bytes of a part of an array, in the memory in which that lies."""
    return 0 if size(whole) == 0 else size(part._replace(layout=part.layout.replace(_FAST, "")))


def _results(i: Instruction, operands: list[Instruction]) -> tuple[Shape, ...]:
    """What an instruction makes; one that only starts tells of its operands and state as well."""
    if not i.opcode.endswith("-start") or i.opcode == "all-reduce-start":
        return i.shapes
    if i.opcode == "copy-start":
        return i.shapes[:1]
    first = sum(len(operand.shapes) for operand in operands)
    return i.shapes[first : first + 1]


def _outputs(inner: Computation) -> list[Instruction]:
    root = inner.root
    return inner.operands(root) if root.opcode == "tuple" else [root]


def _read(module: Module, inner: Computation, number: int, size: Size) -> int:
    """Bytes that a fusion reads of one of its operands."""
    parameter = inner.parameters[number]
    whole, total, names = _total(parameter.shapes, size), 0, {parameter.name}
    for i in inner:
        places = [place for place, name in enumerate(i.operands) if name in names]
        if not places:
            continue
        if i.opcode == "bitcast" and not i.is_root:
            names.add(i.name)
        elif i.opcode in _SLICES and places == [0]:
            total += _within(i.shapes[0], parameter.shapes[0], size)
        elif i.opcode == "fusion":
            nested = module.computations[i.called or ""]
            total += sum(_read(module, nested, place, size) for place in places)
        elif i.opcode != "dynamic-update-slice" or places != [0]:
            return whole
    return min(total, whole)


def _written(where: Computation, output: Instruction, size: Size) -> int:
    """Bytes of a result that are written: those of the update, where it is one in place."""
    while output.opcode == "bitcast":
        output = where.instructions[output.operands[0]]
    if output.opcode != "dynamic-update-slice":
        return _total(output.shapes, size)
    return _within(where.operands(output)[1].shapes[0], output.shapes[0], size)
