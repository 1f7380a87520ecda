"""``fedjax-kd list``: what there is, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from docstring_parser import parse as parse_docstring

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands._parser import Section, flag, parse
from fedjax_kd.data import PARTITIONERS, sources
from fedjax_kd.data.augment import AUGMENTATIONS
from fedjax_kd.metrics import METRICS
from fedjax_kd.models import MODELS
from fedjax_kd.options import named
from fedjax_kd.problems import PROBLEMS
from fedjax_kd.report import methods, tables
from fedjax_kd.runs.schedule_config import SCHEDULES
from fedjax_kd.wrappers import WRAPPERS

HELP = """Lists methods, wrappers, models, partitions, schedules, problems, metrics and the like.

Examples:
  fedjax-kd list
  fedjax-kd list methods
  fedjax-kd list methods --markdown
  fedjax-kd list datasets --data-dir DIR"""

_OUTPUT = Section(
    "output",
    "Where to look, and what to print",
    [
        flag("data_dir", help="folder of data files"),
        flag("markdown", type=bool, default=False, help="the page of all methods, for the docs"),
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    wanted = [args[0].removeprefix("--")] if args and args[0] not in ("-h", "--help") else []
    wanted = wanted if wanted and wanted[0].split("=")[0] != "data-dir" else []
    chosen = parse("fedjax-kd list", HELP, [_OUTPUT], args[len(wanted) :])["output"]
    if chosen["markdown"]:
        print(methods.methods_page(), end="")
        return 0
    kinds: dict[str, Callable[[], Mapping[str, str]]] = {
        "methods": lambda: {name: methods.against_fedavg(f) for name, f in REGISTRY.items()},
        "wrappers": lambda: _summaries(WRAPPERS),
        "models": lambda: _summaries(MODELS),
        "partitions": lambda: _summaries(PARTITIONERS),
        "schedules": lambda: _summaries(SCHEDULES),
        "augmentations": lambda: _summaries(AUGMENTATIONS),
        "problems": lambda: {
            p.name: f"{p.says}; judged by {p.headline}" for p in PROBLEMS.values()
        },
        "metrics": lambda: {name: metric.about for name, metric in METRICS.items()},
        "datasets": lambda: sources(chosen["data_dir"]),
    }
    for kind in wanted:
        named("section", kind, kinds)
    for kind in wanted or kinds:
        tables.show(tables.definitions(kinds[kind]()), kind)
    return 0


def _summaries(registry: Mapping[str, Callable]) -> dict[str, str]:
    """The first sentence of each docstring."""
    return {
        name: parse_docstring(f.__doc__ or "").short_description or ""
        for name, f in registry.items()
    }
