"""What curves are drawn along: rounds, or what these have cost so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from fedjax_kd.report.estimates import number
from fedjax_kd.report.table_files import CellValue, Record

Along = Literal["round", "megabytes", "megabytes_up", "client_updates", "simulated_seconds"]

NAMES: dict[Along, str] = {
    "round": "round",
    "megabytes": "MB both ways",
    "megabytes_up": "MB up",
    "client_updates": "client updates",
    "simulated_seconds": "simulated seconds",
}
"""Axes, by what stands beside them in pictures."""

COSTS: tuple[Along, ...] = ("megabytes", "simulated_seconds")
"""The costs by which a report draws curves, where they are known."""

COUNTED = ("bytes_down", "bytes_up", "clients", "simulated_seconds")
"""The columns from which axes are made."""

_SUMMED: dict[Along, tuple[tuple[str, ...], float]] = {
    "megabytes": (("bytes_down", "bytes_up"), 1e-6),
    "megabytes_up": (("bytes_up",), 1e-6),
    "client_updates": (("clients",), 1.0),
}


def places_of(rows: Sequence[Record], along: Along) -> list[float]:
    """Where each row of a run lies on an axis, from round 0 on.

    Example:
      >>> rows = [{"round": 0}, {"round": 1, "clients": 3.0}, {"round": 2, "clients": 2.0}]
      >>> places_of(rows, "client_updates")
      [0.0, 3.0, 5.0]
    """
    if along in _SUMMED:
        names, scale = _SUMMED[along]
        return [*accumulate(scale * sum(_known(row.get(name)) for name in names) for row in rows)]
    return [_known(row.get(along)) for row in rows]


def is_known(rows: Sequence[Record], along: Along) -> bool:
    """Whether rows tell where they lie on an axis.

    Example:
      >>> is_known([{"round": 0}, {"round": 1, "bytes_up": 8.0}], "megabytes")
      False
    """
    names = _SUMMED[along][0] if along in _SUMMED else (along,)
    last = rows[-1] if rows else {}
    return all(last.get(name) is not None for name in names)


def _known(cell: CellValue) -> float:
    """A number; 0 where nothing is told, as before the first round."""
    value = number(cell)
    return 0.0 if math.isnan(value) else value
