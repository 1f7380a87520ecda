"""Rows and ratios of the table."""

from __future__ import annotations

import time
from typing import NamedTuple

from benchmarks.accelerators import costs, hlo
from benchmarks.accelerators.checks import faults
from benchmarks.accelerators.costs import Costs, Reader
from benchmarks.accelerators.program import Compiled, compile_block
from benchmarks.accelerators.targets import TARGETS
from benchmarks.accelerators.workloads import WORKLOADS
from benchmarks.reporting import Ratio, Row

_CLIENT = "run_client"  # the engine's function that has all of one client's round in it


class Cell(NamedTuple):
    """What is to be compiled."""

    target: str
    case: str
    method: str = "fedavg"
    cohort: int = 10
    chunk: int | None = None
    devices: int = 1
    graph: bool = False

    @property
    def name(self) -> str:
        """How ratios call it."""
        width = "" if self.chunk is None else f", chunk {self.chunk}"
        more = f", {self.devices} devices" if self.devices > 1 else ""
        graph = ", graph" if self.graph else ""
        what = f"{self.method}, {self.case}, cohort {self.cohort}"
        return f"{self.target}, {what}{width}{more}{graph}"


class Result(NamedTuple):
    """What was found of one cell."""

    cell: Cell
    row: Row
    ratios: dict[str, Ratio]
    is_good: bool


def look_at(cell: Cell) -> Result:
    """Compiles a cell and reads its costs; a row that says why, if that fails."""
    case, target = WORKLOADS[cell.case], TARGETS[cell.target]
    began = time.perf_counter()
    try:
        compiled = compile_block(
            case,
            target,
            method=cell.method,
            cohort=cell.cohort,
            chunk=cell.chunk,
            devices=cell.devices,
            graph=cell.graph,
        )
    except Exception as error:
        # Whatever a compiler that was never asked before has to say: that is what is looked for.
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Result(cell, _head(cell) | {"compiled": why}, {}, False)
    spent = time.perf_counter() - began
    module = hlo.parse(compiled.text)
    wrong = list(faults(module, target, compiled.memory.alias_size_in_bytes, compiled.state_bytes))
    step, round = _costs(cell, module, compiled)
    widths = sorted({width for widths in compiled.simulation.chunk for width in widths})
    room = compiled.memory.temp_size_in_bytes / 2**20
    row = {
        **_head(cell),
        "chunk": "+".join(map(str, widths)),
        "compiled": "; ".join(wrong) or "yes",
        **_columns(step, round, widths[-1]),
        "temp MiB": room,
        "compile s": spent,
    }
    return Result(cell, row, _ratios(cell, step, round, room), not wrong)


def _costs(cell: Cell, module: hlo.Module, compiled: Compiled) -> tuple[Costs | None, Costs]:
    """Of one local step of the clients that are trained at once, and of all steps of a block."""
    case, target = WORKLOADS[cell.case], TARGETS[cell.target]
    program = Reader(module, target, compiled.on_device).program()
    step = costs.largest(costs.outermost(program, _CLIENT), case.steps)
    block = costs.total(program, case.steps)
    return step, block.times(1 / compiled.simulation.block)


def _head(cell: Cell) -> dict[str, str | int | float]:
    return {
        "target": cell.target + (f" x {cell.devices}" if cell.devices > 1 else ""),
        "method": cell.method,
        "case": cell.case + (", graph" if cell.graph else ""),
        "cohort": cell.cohort,
        "chunk": "" if cell.chunk is None else cell.chunk,
    }


def _columns(step: Costs | None, round: Costs, width: int) -> dict[str, str | int | float]:
    """Of one local step of a chunk, where it is a loop, and of a round."""
    of_step: dict[str, str | int | float] = dict.fromkeys(_OF_STEP, "-")
    if step is not None:
        values = (
            *(step.kernels, step.products, step.bytes / 2**20),
            *(step.roofline_us, step.xla_us, step.xla_us / width),
        )
        of_step = dict(zip(_OF_STEP, values, strict=True))
    return {
        **of_step,
        "kernels/round": round.kernels,
        "unknown loops/round": round.unknown,
        "host waits/round": round.waits,
        "Gop/round": round.operations / 1e9,
        "MiB/round": round.bytes / 2**20,
        "roofline ms/round": round.roofline_us / 1e3,
        "XLA ms/round": round.xla_us / 1e3,
        "roofline / XLA": round.roofline_us / round.xla_us if round.xla_us else "-",
        "not in XLA's": round.unestimated,
    }


_OF_STEP = (
    *("kernels/step", "products/step", "MiB/step"),
    *("roofline us/step", "XLA us/step", "XLA us/step and client"),
)


def _ratios(cell: Cell, step: Costs | None, round: Costs, room: float) -> dict[str, Ratio]:
    """What is the same whenever and wherever the same versions compile it.

    Roofline over XLA's time is none of them: it also falls when fewer bytes are moved.
    """
    counted = {"kernels a round": round.kernels, "XLA's ms a round": round.xla_us / 1e3}
    counted |= {"temp MiB": room, **({} if step is None else {"kernels a step": step.kernels})}
    found = {f"1 / {what}": 1 / number for what, number in counted.items() if number}
    found["1 / (1 + host waits a round)"] = 1 / (1 + round.waits)
    return {f"{cell.name}: {what}": Ratio(value) for what, value in found.items()}
