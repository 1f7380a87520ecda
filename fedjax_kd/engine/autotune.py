"""Autotuning of a width: how many local trainings run at once on this device.

The chunks of a run (`chunk_width`) and the tiles of a sweep (`fedjax_kd.sweeps.widths`) are both
measured at growing widths, until wider stops to pay or to fit, and both remember what was measured
beside the compiled programs. Short runs follow a rule instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_kd.core import Pool
from fedjax_kd.engine import compile_cache, memory
from fedjax_kd.nn.native import library

_LOG = logging.getLogger("fedjax_kd")

# Timings of one width scatter by a few per cent. A curve that is worse by more has turned, and a
# wider program would only take longer to compile.
_WORSE = 1.1
# A prediction from the width before is rough, so half of the free memory is left alone.
_SHARE_OF_MEMORY = 0.5


class Measured(NamedTuple):
    """The cost of one width."""

    cost: float  # of one lane, in any unit
    bytes: int = 0  # that the program needs beside its arguments; 0 where it checks that itself


def measure_growing(widths: Iterable[int], probe: Callable[[int], Measured]) -> dict[int, float]:
    """The cost of a lane at growing widths, until wider stops to pay or to fit.

    Args:
      widths: ascending.
      probe: measures one width; running out of memory ends the measurement.

    Example:
      >>> measure_growing([1, 2, 4, 8], lambda width: Measured(abs(width - 2) + 1.0))
      {1: 2.0, 2: 1.0, 4: 3.0}
    """
    costs: dict[int, float] = {}
    free, needed = memory.free(), 0
    for width in widths:
        predicted = needed * width / max(costs, default=1)
        if free is not None and predicted > _SHARE_OF_MEMORY * free:
            break
        found = memory.if_it_fits(probe, width)
        if isinstance(found, memory.TooLargeError):
            break
        costs[width], needed = found
        if costs[width] > _WORSE * min(costs.values()):
            break
    return costs


def least_seconds(
    function: Callable[..., Any], arguments: Callable[[], tuple[Any, ...]], repeats: int
) -> float:
    """Seconds of the fastest of some calls.

    Args:
      function: to be timed.
      arguments: makes the arguments of each call before its clock starts; a program may consume
        them.
      repeats: calls; the fastest is the one that other processes disturbed least.
    """
    spent = []
    for _ in range(repeats):
        given = jax.block_until_ready(arguments())
        began = time.perf_counter()
        jax.block_until_ready(function(*given))
        spent.append(time.perf_counter() - began)
    return min(spent)


def measurement_name(program: jax.stages.Lowered, pool: Pool, *about: Any) -> str:
    """A hash of all that a measurement depends on: program, shapes, device, version of JAX.

    Args:
      program: of one client.
      pool: the examples, of which the shapes count.
      about: what else the cost depends on, such as the size of a cohort.
    """
    device = jax.devices()[0]
    shapes = [str(a.shape) for a in jax.tree.leaves(pool)]
    machine = [device.platform, device.device_kind, jax.__version__]
    if device.platform == "cpu":  # the program has products in it, whatever runs
        machine.append(library.description())
    parts = [program.as_text(), *shapes, *about, *machine]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def remembered_costs(name: str, measure: Callable[[], dict[int, float]]) -> dict[int, float]:
    """Costs measured before under that name, or measured now and remembered.

    They lie beside the compiled programs; nothing is kept where `compile_cache` keeps nothing.
    """
    folder = compile_cache.folder()
    file = None if folder is None else folder / "chunks" / f"{name}.json"
    if file is not None and file.is_file():
        try:
            return {int(width): float(c) for width, c in json.loads(file.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            _LOG.info("%s is damaged: it is measured anew", file)
    costs = measure()
    if file is not None and costs:
        _write(file, costs)
    return costs


def _write(file: Path, costs: Mapping[int, float]) -> None:
    """Whole or not at all; a folder that cannot be written to costs a measurement, not the run."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(f".{os.getpid()}")
        partial_file.write_text(json.dumps(costs))
        partial_file.replace(file)
    except OSError as error:
        _LOG.info("the measured widths cannot be kept: %s", error)
