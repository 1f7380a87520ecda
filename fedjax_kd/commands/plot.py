"""``fedjax-kd plot``: several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence

from fedjax_kd.commands._parser import Section, flag, folders, parse
from fedjax_kd.report import plots, tables
from fedjax_kd.report.axes import Along
from fedjax_kd.runs import folder as run_folder

HELP = """Draws the curves of runs, and prints their table.

A folder of several runs (from `fedjax-kd run fedavg fedadam`) stands for all of them.

Examples:
  fedjax-kd plot runs/a runs/b --out compared.png
  fedjax-kd plot runs/a runs/b --metric client_accuracy_worst_decile
  fedjax-kd plot runs/a runs/b --along megabytes"""

_OUTPUT = Section(
    "output",
    "What is drawn, and where",
    [
        flag("metric", help="a column of metrics.csv; by default accuracy and loss"),
        flag(
            "along",
            type=Along,
            default="round",
            help="the axis: rounds, or what these have cost so far",
        ),
        flag("out", type=str, default="curves.png", help="the picture, a PNG, PDF or SVG"),
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    given, rest = folders(args, "fedjax-kd plot", HELP)
    chosen = parse("fedjax-kd plot RUN...", HELP, [_OUTPUT], rest)["output"]
    members = [m for folder in given for m in run_folder.members(folder)]
    names = tables.labels([run_folder.read_config(m) for m in members], [str(m) for m in members])
    curves = [plots.Curve(n, run_folder.read_rows(m)) for n, m in zip(names, members, strict=True)]
    metrics = () if chosen["metric"] is None else (chosen["metric"],)
    path = plots.curve(curves, chosen["out"], metrics, along=chosen["along"])
    found = {n: run_folder.read_summary(m) for n, m in zip(names, members, strict=True)}
    tables.show(tables.summaries({n: s for n, s in found.items() if s}))
    print(path)
    return 0
