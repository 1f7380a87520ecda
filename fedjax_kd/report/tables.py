"""Tables of runs for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedjax_kd.core import PyTree
from fedjax_kd.runs.config import Config, to_json

_LONGEST_LABEL = 45  # characters that fit into a picture


def summaries(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What summary.json says of each run.

    Args:
      found: the contents of summary.json, by the name of the run.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run")
    timed = any("simulated_seconds" in s for s in found.values())
    told = list(dict.fromkeys(name for s in found.values() for name in _told(s)))
    for title in (
        "rounds",
        *map(_heading, told),
        "best",
        "loss",
        "MB down",
        "MB up",
        "rejected",
        "waste",
        *(["simulated s"] if timed else []),
    ):
        table.add_column(title, justify="right")
    for title in ("rounds/s", "clients/s", "compile s", "train s", "evaluate s"):
        table.add_column(title, justify="right")
    for name, summary in found.items():
        seconds = summary["seconds"]
        table.add_row(
            name,
            f"{summary['finished_rounds']}/{summary['num_rounds']}",
            *(_number(summary.get(f"final_{name}"), ".4f") for name in told),
            f"{_best(summary)} @{summary['best_round']}",
            _number(summary["final_test_loss"], ".4g"),
            _number(summary["bytes_down"] / 1e6, ".1f"),
            _number(summary["bytes_up"] / 1e6, ".1f"),
            str(summary["rejected"]),
            _number(summary.get("waste"), ".2f"),
            *([_number(summary.get("simulated_seconds"), ".4g")] if timed else []),
            _number(summary["rounds_per_second"], ".3g"),
            _number(summary["client_updates_per_second"], ".3g"),
            *(_number(seconds[part], ".1f") for part in ("compile", "train", "evaluate")),
        )
    return table


def pairs(values: Mapping[str, Any]) -> Table:
    """Names and numbers, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), format(value, ".4g" if _is_float(value) else ""))
    return table


def definitions(values: Mapping[str, str]) -> Table:
    """Names and what they mean, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in values.items():
        table.add_row(Text(name), Text(text))
    return table


def type_lines(types: PyTree) -> str:
    """A tree of types, a leaf a line.

    Example:
      >>> type_lines({"w": jax.ShapeDtypeStruct((2, 3), "float32")})
      "['w'] float32[2,3]"
    """
    lines = [
        f"{jax.tree_util.keystr(path).lstrip('.')} {leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(types)
    ]
    return "\n".join(line.strip() for line in lines) or "nothing"


def labels(configs: Sequence[Config], folders: Sequence[str]) -> list[str]:
    """A name for each run: its method, and whatever else tells it from the other runs.

    Where runs differ in too much for a legend, the folder's name tells them apart.

    Example:
      >>> one, two = Config("fedadam", {"eta": 0.1}), Config("fedadam", {"eta": 0.3})
      >>> labels([one, two], ["runs/one", "runs/two"])
      ['fedadam, eta 0.1', 'fedadam, eta 0.3']
    """
    options = [flat({**to_json(config), "files": {}}) for config in configs]
    names = []
    for config, own, folder in zip(configs, options, folders, strict=True):
        peers = [other for other in options if other["method"] == config.method]
        apart = [key for key in own if any(other.get(key) != own[key] for other in peers)]
        parts = [f"{key.split('.')[-1]} {own[key]}" for key in apart if own[key] is not None]
        name = ", ".join([config.method, *dict.fromkeys(parts)])  # data and training have a seed
        names.append(name if len(name) <= _LONGEST_LABEL else f"{config.method}, {_ending(folder)}")
    return [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]


def _ending(folder: str) -> str:
    """The last characters of a path."""
    return folder if len(folder) <= 30 else f"…{folder[-30:]}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of mappings as one mapping by dotted names.

    Example:
      >>> flat({"data": {"seed": 3}})
      {'data.seed': 3}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def show(table: Table, title: str = "") -> None:
    """Prints a table to the standard output; without a terminal, wide enough for all columns."""
    width = None if Console().is_terminal else 200
    console = Console(highlight=False, width=width)
    if title:
        console.print(title, style="bold", markup=False)
    console.print(table)
    if title:
        console.print()


def _best(summary: Mapping[str, Any]) -> str:
    """The best value of what the run is judged by."""
    (name,) = (k for k in summary if k.startswith("best_") and k != "best_round")
    return _number(summary[name], ".4f" if "accuracy" in name else ".4g")


def _told(summary: Mapping[str, Any]) -> list[str]:
    """The columns of which a summary has the last value, but for the loss on the test set."""
    names = [key.removeprefix("final_") for key in summary if key.startswith("final_")]
    return [name for name in names if name not in ("test_loss", "forgetting")]


def _heading(column: str) -> str:
    """The heading of a column: of own models, each on its own test rows, clients count alike."""
    if column.startswith("personal_"):
        return "own models"
    words = column.replace("_", " ")
    return words.removeprefix("test ")


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
