"""The display of a running training: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedjax_kd.metrics import judged_column, metric_of
from fedjax_kd.train import Row

Show = Callable[[str, int, Mapping[str, float]], None]
"""(name of the run, finished rounds, its latest numbers by name)"""


def stderr() -> Console:
    """The console of everything that is not a result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def show_progress(rounds: Mapping[str, int], *, quiet: bool = False) -> Iterator[Show]:
    """A display of runs that take place one after another.

    Args:
      rounds: to train, by the name of the run.
      quiet: whether nothing is to be shown.
    """
    console = stderr()
    if quiet:
        yield lambda name, finished, known: None
    elif console.is_terminal:
        with _bars(console, rounds) as show:
            yield show
    else:
        yield _lines(console, rounds)


def latest(rows: list[Row], seconds: float) -> dict[str, float]:
    """The numbers of a run in the display: last evaluation, speed, rejected uploads."""
    evaluated = [row for row in rows if "test_loss" in row]
    rounds = sum(row["round"] > 0 for row in rows)
    last = evaluated[-1] if evaluated else {}
    judged = judged_column(last)
    shown = {"test_loss": None} | ({} if judged is None else {judged: None})
    last = {name: last[name] for name in shown if name in last}
    speed = {"rounds_per_second": rounds / seconds} if seconds > 0 else {}
    return last | speed | {"rejected": sum(row.get("rejected", 0) for row in rows)}


def _lines(console: Console, rounds: Mapping[str, int]) -> Show:
    def show(name: str, finished: int, known: Mapping[str, float]) -> None:
        console.print(f"{name}: round {finished} of {rounds[name]}, {_words(known)}", markup=False)

    return show


@contextmanager
def _bars(console: Console, rounds: Mapping[str, int]) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {
            name: bars.add_task(name, total=total, start=False, words="waiting")
            for name, total in rounds.items()
        }

        def show(name: str, finished: int, known: Mapping[str, float]) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=finished, words=_words(known))
            if finished == rounds[name]:
                bars.stop_task(tasks[name])

        yield show


def _words(known: Mapping[str, float]) -> str:
    """The numbers of a run in a few words."""
    words = [f"{name} {v:.4g}" for name, v in known.items() if name.startswith(("points", "best "))]
    judged = judged_column(known)
    if judged is not None and metric_of(judged) != "loss":
        words.append(f"{metric_of(judged)} {known[judged]:.3f}")
    if "test_loss" in known:
        words.append(f"loss {known['test_loss']:.4g}")
    if "rounds_per_second" in known:
        words.append(f"{known['rounds_per_second']:.3g} rounds/s")
    if known.get("rejected"):
        words.append(f"{known['rejected']:.0f} uploads rejected")
    return ", ".join(words) or "compiling"
