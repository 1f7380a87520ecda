"""The settings that a sweep tries: grids, ranges, random draws, tables of configurations."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options

AxisValue = float | int | str | bool | tuple[int, ...] | None
Setting = dict[str, AxisValue]
"""One configuration: a value for each parameter that the sweep varies."""

_RULE = (
    "give values (0.01,0.1,1; between semicolons if they hold commas or colons), points between "
    "two ends (1e-3:1e1:log5 or 0:1:lin3), or, to draw from, only the ends (1e-3:1e1:log or "
    "0:1:lin)"
)


class Range(NamedTuple):
    """All numbers between two ends, alike likely themselves or by their logarithm."""

    low: float
    high: float
    log: bool = True

    def points(self, count: int) -> list[float]:
        """``count`` numbers at equal distances, both ends among them.

        Example:
          >>> Range(0.001, 10.0).points(5)
          [0.001, 0.01, 0.1, 1.0, 10.0]
        """
        space = np.geomspace if self.log else np.linspace
        return [float(f"{v:.12g}") for v in space(self.low, self.high, count)]

    def draw(self, rng: np.random.Generator) -> float:
        """A random number."""
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))


Axis = Range | Sequence[Any]
"""The values that a parameter may take."""


def axis(text: str) -> Axis:
    """The axis that a text describes; values of a list stay text.

    Values are parted by commas, or by semicolons, where commas and colons belong to the values.

    Raises:
      ValueError: if it describes none, or one without a value.

    Example:
      >>> axis("1e-3:1e1:log5")
      [0.001, 0.01, 0.1, 1.0, 10.0]
      >>> axis("sgd,adam"), axis("0:1:lin")
      (['sgd', 'adam'], Range(low=0.0, high=1.0, log=False))
      >>> axis("constant; cosine:rounds=9,end=0.1")
      ['constant', 'cosine:rounds=9,end=0.1']
    """
    parted = ";" if ";" in text else ","
    if parted == ";" or ":" not in text:
        values = [part.strip() for part in text.split(parted) if part.strip()]
        if not values:
            raise InputError(f"The axis {text!r} has no value: {_RULE}.")
        return values
    found = re.fullmatch(r"([^:]+):([^:]+):(log|lin)(\d*)", text.strip())
    try:
        low, high = (float(end) for end in found.groups()[:2]) if found else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if found is None or not math.isfinite(low) or not math.isfinite(high):
        raise InputError(f"The axis {text!r} is no range of numbers: {_RULE}.")
    log, count = found[3] == "log", found[4]
    if low >= high or (log and low <= 0):
        raise InputError(
            f"The range {text!r} goes from {low:g} to {high:g}, but must ascend"
            f"{', and begin above 0 to have a logarithm' if log else ''}: {_RULE}."
        )
    if count and int(count) < 2:
        raise InputError(f"The range {text!r} has {count} points, but needs 2 at least: {_RULE}.")
    whole = Range(low, high, log)
    return whole.points(int(count)) if count else whole


def grid(**axes: Sequence[Any]) -> list[Setting]:
    """Every combination of the values of some parameters; the last one varies fastest.

    Raises:
      ValueError: if a parameter has no values, or one twice.

    Example:
      >>> grid(client_lr=[0.1, 1.0], mu=[0.0])
      [{'client_lr': 0.1, 'mu': 0.0}, {'client_lr': 1.0, 'mu': 0.0}]
    """
    for name, values in axes.items():
        if len(values) == 0:
            raise InputError(f"The grid has no value for {name}: give one at least.")
        if len(set(values)) < len(values):
            raise InputError(f"The grid names a value of {name} twice, in {list(values)}.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@checks_options
def sample(axes: Mapping[str, Axis], count: int, seed: int = 0) -> list[Setting]:
    """``count`` random combinations: from a range any number, from a list any of its values.

    Args:
      axes: what each parameter may be.
      count: combinations to draw, >= 1.
      seed: of the random draws, >= 0.

    Raises:
      ValueError: if a number is out of its range, or a list is empty.

    Example:
      >>> all(0.1 <= s["mu"] <= 1 for s in sample({"mu": Range(0.1, 1.0), "lr": [1]}, 5))
      True
    """
    for name, values in axes.items():
        if not isinstance(values, Range) and len(values) == 0:
            raise InputError(f"{name} has no value to draw from: give one at least.")
    rng = np.random.default_rng(seed)

    def draw(values: Axis) -> Any:
        if isinstance(values, Range):
            return values.draw(rng)
        return values[int(rng.integers(len(values)))]

    return [{name: draw(values) for name, values in axes.items()} for _ in range(count)]


def table(path: str | Path) -> list[Setting]:
    """Configurations from a file: CSV with a header, or JSON with a list of objects.

    Cells of CSV stay text; an empty one leaves the parameter as it is without the sweep.

    Raises:
      ValueError: if there is no such file, or nothing in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".json":
            found = [dict(row) for row in json.loads(text)]
        else:
            rows = csv.DictReader(text.splitlines(), strict=True, restkey="", restval="")
            found = [{k: v for k, v in row.items() if v} for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"The table {path} cannot be read ({error}): give a CSV file with a header, or a JSON "
            'file with a list such as [{"client_lr": 0.1}, {"client_lr": 1}].'
        ) from error
    if not found or any("" in row for row in found):
        raise InputError(f"The table {path} must have a header and a configuration in each line.")
    return [{name.strip().replace("-", "_"): v for name, v in row.items()} for row in found]
