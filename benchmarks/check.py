"""Whether a new result is as good as an old one: compares ratios, never times.

    python -m benchmarks.check benchmarks/results/roofline.json new.json

Every ratio is better the higher it is. The check fails, and names them, if ratios of the baseline
fell by more than the tolerance or are missing. With ``--common`` none is missing: the new run was
of a part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

TOLERANCE = 0.15


def failures(
    baseline: Mapping[str, float], new: Mapping[str, float], tolerance: float = TOLERANCE
) -> list[str]:
    """A line for each ratio that is missing, or below ``(1 - tolerance) * baseline``.

    Example:
      >>> failures({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.9, "b": 1.0}, tolerance=0.2)
      ['b: fell from 2 to 1', 'c: is missing, was 3']
    """
    lines = []
    for name, old in baseline.items():
        if name not in new:
            lines.append(f"{name}: is missing, was {old:.3g}")
        elif not new[name] >= (1 - tolerance) * old:
            lines.append(f"{name}: fell from {old:.3g} to {new[name]:.3g}")
    return lines


def main() -> None:
    """Exits with 1 and the names if something fell, with 2 if the files cannot be compared."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("baseline", type=Path, help="result file of the run to compare with")
    options.add_argument("new", type=Path, help="result file of the same benchmark")
    options.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="share that a ratio may fall by (default: %(default)s)",
    )
    options.add_argument(
        "--common", action="store_true", help="only what the new file has: it is of a part"
    )
    args = options.parse_args()
    baseline, new = (json.loads(file.read_text("utf-8")) for file in (args.baseline, args.new))
    if baseline["benchmark"] != new["benchmark"]:
        options.error(
            f"{args.baseline} is of {baseline['benchmark']} and {args.new} of "
            f"{new['benchmark']}, but two runs of one benchmark are compared: choose two such."
        )
    old = {
        name: value
        for name, value in baseline["ratios"].items()
        if name in new["ratios"] or not args.common
    }
    if not old:
        options.error(f"{args.new} has no ratio of {args.baseline}: run what that has.")
    fallen = failures(old, new["ratios"], args.tolerance)
    print("\n".join(fallen) or f"none of {len(old)} ratios fell")
    sys.exit(bool(fallen))


if __name__ == "__main__":
    main()
