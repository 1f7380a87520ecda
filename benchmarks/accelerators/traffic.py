"""The bytes that compiled instructions read from and write to a device's memory."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.accelerators.hlo import Computation, Instruction, Module, Shape

Size = Callable[[Shape], int]
"""A shape -> its bytes"""

_SLICES = ("dynamic-slice", "gather", "slice")


def in_memory(shape: Shape) -> int:
    """Bytes of an array; none of what stays in a TPU's own fast memory."""
    return 0 if shape.in_vector_memory else shape.bytes


def padded_in_memory(shape: Shape) -> int:
    """The same, of whole tiles."""
    return 0 if shape.in_vector_memory else shape.padded_bytes


def moved(module: Module, where: Computation, i: Instruction, size: Size = in_memory) -> int:
    """Bytes that an instruction reads and writes.

    A slice of an operand is all that is read of it, and an update in place all that is written.
    """
    if i.opcode == "fusion":
        inner = module.computations[i.called or ""]
        read = sum(_read(module, inner, n, size) for n in range(len(i.operands)))
        return read + _written(inner, i, size)
    operands = where.operands(i)
    if i.opcode == "dynamic-update-slice":
        return 2 * _total(operands[1], size)
    if i.opcode in _SLICES:
        return 2 * _total(i, size)
    return sum(_total(operand, size) for operand in operands) + _total(i, size)


def _total(i: Instruction, size: Size) -> int:
    return sum(map(size, i.shapes))


def _read(module: Module, inner: Computation, number: int, size: Size) -> int:
    """Bytes that a fusion reads of one of its operands."""
    parameter = inner.parameters[number]
    whole, total, names = _total(parameter, size), 0, {parameter.name}
    for i in inner:
        places = [place for place, name in enumerate(i.operands) if name in names]
        if not places:
            continue
        if i.opcode == "bitcast" and not i.is_root:
            names.add(i.name)
        elif i.opcode in _SLICES and places == [0]:
            # Inside a fusion shapes say no memory space: what is read lies where the operand does.
            total += _total(i, size) if whole else 0
        elif i.opcode == "fusion":
            nested = module.computations[i.called or ""]
            total += sum(_read(module, nested, place, size) for place in places)
        elif i.opcode != "dynamic-update-slice" or places != [0]:
            return whole
    return min(total, whole)


def _written(inner: Computation, fusion: Instruction, size: Size) -> int:
    """Bytes that a fusion writes."""
    root = inner.root
    outputs = inner.operands(root) if root.opcode == "tuple" else [root]
    if len(outputs) != len(fusion.shapes):
        return _total(fusion, size)
    return sum(
        min(size(shape), _update(inner, i, size))
        for i, shape in zip(outputs, fusion.shapes, strict=True)
    )


def _update(inner: Computation, output: Instruction, size: Size) -> int:
    """Bytes of one output that a fusion writes: those of the update, where it is one in place."""
    while output.opcode == "bitcast":
        output = inner.instructions[output.operands[0]]
    if output.opcode == "dynamic-update-slice":
        return _total(inner.operands(output)[1], size)
    return _total(output, size)
