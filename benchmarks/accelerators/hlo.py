"""The text of a compiled program (HLO) as data.

XLA offers the instructions of a module to Python in no other way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

_SHAPE = re.compile(r"\b(pred|token|opaque|b?f\d\w*|[suc]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILED = re.compile(r"([\d,]*):.*?T\(([\d,]+)\)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")


class Shape(NamedTuple):
    """An array's type as compiled."""

    dtype: str
    dims: tuple[int, ...]
    layout: str  # axes from minor to major, tiles and memory space

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Of its numbers alone."""
        return self._bytes_of(self.dims)

    @property
    def padded_bytes(self) -> int:
        """Of the whole tiles of a TPU's memory that hold it.

        Example:
          >>> Shape("f32", (10, 130), "1,0:T(8,128)").padded_bytes == 4 * 16 * 256
          True
        """
        tiled = _TILED.match(self.layout)
        if not tiled:
            return self.bytes
        order, tile = ([int(n) for n in group.split(",") if n] for group in tiled.groups())
        dims = [self.dims[axis] for axis in order] + [1] * (len(tile) - len(order))
        tile = tile[::-1] + [1] * (len(dims) - len(tile))
        return self._bytes_of([-(-n // t) * t for n, t in zip(dims, tile, strict=True)])

    def _bytes_of(self, dims: tuple[int, ...] | list[int]) -> int:
        bits = re.search(r"\d+", self.dtype)
        each = int(bits[0]) if bits else 8 * (self.dtype == "pred")
        return -(-math.prod(dims) * each // 8)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several of a tuple
    operands: tuple[str, ...]
    arguments: str  # what stands in the brackets, such as a constant's value
    attributes: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The computation, or the number, of that attribute."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]

    @property
    def called(self) -> str | None:
        """The computation that a fusion or call runs."""
        return self.attribute("calls") or self.attribute("to_apply")

    @property
    def branches(self) -> list[str]:
        """The computations of which a conditional runs one."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return _NAME.findall(listed[1])
        return re.findall(r"(?:true|false)_computation=%([\w.\-]+)", self.attributes)

    @property
    def custom_target(self) -> str | None:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]+)"', self.attributes)
        return found and found[1]


@dataclass(frozen=True)
class Computation:
    """Instructions by their names, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @cached_property
    def parameters(self) -> list[Instruction]:
        """Its inputs, in their order."""
        found = (i for i in self if i.opcode == "parameter")
        return sorted(found, key=lambda i: int(i.arguments))

    @property
    def root(self) -> Instruction:
        """The instruction whose value it returns."""
        return next(i for i in self if i.is_root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose values another one takes."""
        return [self.instructions[name] for name in instruction.operands]


@dataclass(frozen=True)
class Module:
    """A compiled program."""

    text: str
    computations: dict[str, Computation]
    entry: Computation

    def __iter__(self) -> Iterator[Instruction]:
        return (i for computation in self.computations.values() for i in computation)

    @cached_property
    def callers(self) -> dict[str, tuple[Computation, Instruction]]:
        """Where the body and the condition of each loop are used, and each called computation."""
        found: dict[str, tuple[Computation, Instruction]] = {}
        for computation in self.computations.values():
            for i in computation:
                used = [i.attribute("body"), i.attribute("condition"), i.called, *i.branches]
                found |= {name: (computation, i) for name in used if name}
        return found

    def functions_of(self, instruction: Instruction) -> list[str]:
        """The Python functions in which an instruction was traced, from the innermost on."""
        number, names = int(instruction.attribute("stack_frame_id") or 0), []
        while number in self._frames:
            name, parent = self._frames[number]
            names.append(name)
            number = parent if parent != number else 0
        return names

    @cached_property
    def _frames(self) -> dict[int, tuple[str, int]]:
        """Number of a frame -> the name of its function, and the frame that called it."""
        names = dict(re.findall(r'^(\d+) "(.*)"$', self._part("FunctionNames"), re.MULTILINE))
        where = r"^(\d+) \{.*function_name_id=(\d+)"
        places = dict(re.findall(where, self._part("FileLocations"), re.MULTILINE))
        line = r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}"
        frames = re.findall(line, self._part("StackFrames"), re.MULTILINE)
        # The parent's number is written one too high, so that 0 can stand for nothing.
        return {int(n): (names[places[at]], int(above) - 1) for n, at, above in frames}

    def _part(self, head: str) -> str:
        found = re.search(rf"^{head}\n(.*?)\n\n", self.text, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""


def parse(text: str) -> Module:
    """Reads ``compiled.as_text()``.

    Raises:
      ValueError: if it has no entry computation, and so is not the text of a module.
    """
    computations: dict[str, Computation] = {}
    current = entry = None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = Computation(head[2])
            entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            made = _instruction(found[2], found[3], is_root=bool(found[1]))
            current.instructions[made.name] = made
    if entry is None:
        raise ValueError(f"This is no text of a compiled module: {text[:80]!r}")
    return Module(text, computations, entry)


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    """One instruction, from what stands after its name."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing]
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in _SHAPE.findall(kind)
    )
    operands = tuple(_NAME.findall(arguments))
    return Instruction(
        name, rest[:opening], shapes, operands, arguments, rest[closing + 1 :], is_root
    )


def _closing(text: str, opening: int) -> int:
    """Where the bracket closes that opens at ``opening``."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"A bracket is never closed: {text[:80]!r}")
