"""Tables of runs for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def summaries(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What summary.json says of each run.

    Args:
      found: the contents of summary.json, by the name of the run.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run")
    for title in ("rounds", "accuracy", "best", "loss", "MB down", "MB up", "rejected"):
        table.add_column(title, justify="right")
    for title in ("rounds/s", "clients/s", "compile s", "train s", "evaluate s"):
        table.add_column(title, justify="right")
    for name, summary in found.items():
        seconds = summary["seconds"]
        table.add_row(
            name,
            f"{summary['finished_rounds']}/{summary['num_rounds']}",
            _number(summary["final_test_accuracy"], ".4f"),
            f"{_number(summary['best_test_accuracy'], '.4f')} @{summary['best_round']}",
            _number(summary["final_test_loss"], ".4f"),
            _number(summary["bytes_down"] / 1e6, ".1f"),
            _number(summary["bytes_up"] / 1e6, ".1f"),
            str(summary["rejected"]),
            _number(summary["rounds_per_second"], ".3g"),
            _number(summary["client_updates_per_second"], ".3g"),
            *(_number(seconds[part], ".1f") for part in ("compile", "train", "evaluate")),
        )
    return table


def pairs(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one a line."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _number(value, ".4g") if _is_float(value) else value)
    return table


def show(table: Table) -> None:
    """Prints a table to the standard output; without a terminal, wide enough for all columns."""
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
