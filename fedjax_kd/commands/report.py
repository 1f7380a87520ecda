"""``fedjax-kd report``: runs, comparisons and sweeps as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedjax_kd.commands._parser import Section, flag, folders, parse
from fedjax_kd.errors import InputError
from fedjax_kd.report.load import read_studies
from fedjax_kd.report.page import page
from fedjax_kd.runs import folder as run_folder

HELP = """Writes one HTML page about runs, comparisons of runs and sweeps, any mix of them.

Tables, curves with bands, heat maps, partitions, configurations and versions, in a single file that
opens from disk and needs no network. Runs on the same data are compared with each other, those that
differ in the seed alone are averaged.

Examples:
  fedjax-kd report runs/20260101-120000-sweep-digits
  fedjax-kd report runs/a runs/b --target 0.8 --out compared.html"""

_OUTPUT = Section(
    "output",
    "What is compared, and where it goes",
    [
        flag("metric", help="a column of metrics.csv; by default the sweep's own, or accuracy"),
        flag(
            "target",
            type=float | None,
            help="tell how many rounds it takes to this value, any number",
        ),
        flag("baseline", help="the method that others are compared with (default: fedavg)"),
        flag("out", type=str, default="report.html", help="the page"),
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    given, rest = folders(args, "fedjax-kd report", HELP)
    chosen = parse("fedjax-kd report RUN...", HELP, [_OUTPUT], rest)["output"]
    out = Path(chosen["out"])
    _check(out)
    studies = read_studies(given, chosen["metric"])
    text = page(studies, target=chosen["target"], baseline=chosen["baseline"])
    run_folder.replace_shared(out, text.encode())
    print(out)
    return 0


def _check(out: Path) -> None:
    """Raises ValueError if the page cannot go there."""
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise InputError(f"The page is {out}, but must be a file that ends in .html: rename it.")
    if not out.parent.is_dir():
        raise InputError(f"There is no folder {out.parent} to write {out.name} to: make it first.")
