"""How every benchmark reads its options, prints its result and writes it down.

A result file is ``{"benchmark", "command", "machine", "rows", "ratios"}``. Rows are what was
measured; ratios are what may be compared with another run (`benchmarks.check`), and each is better
the higher it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

Row = Mapping[str, str | int | float]


class Ratio(NamedTuple):
    """A figure that does not depend on how fast the machine is; higher is better."""

    value: float
    goal: float | None = None


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that explains itself with a module's docstring, with the option ``--json``."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return made


def publish(
    benchmark: str, rows: Sequence[Row], ratios: Mapping[str, Ratio], file: Path | None
) -> None:
    """Prints the table, the ratios and the machine; writes all of it to ``file`` if given."""
    machine = describe()
    print(table(rows), end="\n\n")
    for name, (value, goal) in ratios.items():
        wanted = "" if goal is None else f" (goal {goal:g}: {_verdict(value, goal)})"
        print(f"- {name}: {value:.3g}{wanted}")
    print("\n" * bool(ratios) + ", ".join(f"{k} {v}" for k, v in machine.items()), flush=True)
    if file is None:
        return
    result = {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "machine": machine,
        "rows": [dict(row) for row in rows],
        "ratios": {name: ratio.value for name, ratio in ratios.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; its columns are the keys in the order in which they first occur.

    Example:
      >>> print(table([{"model": "mlp", "seconds": 0.12345}, {"model": "cnn", "ratio": 2}]))
      | model | seconds | ratio |
      |---|---|---|
      | mlp | 0.123 |  |
      | cnn |  | 2 |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def describe() -> dict[str, Any]:
    """The machine and the software of this run."""
    device = jax.devices()[0]
    return {
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _verdict(value: float, goal: float) -> str:
    return "reached" if value >= goal else "MISSED"


def _cell(value: str | int | float) -> str:
    """Three digits of a fraction, all digits of a whole number."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
