"""``fedjax-kd sweep``: many configurations and seeds, as few programs as can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedjax_kd.commands import _options, _sweeping
from fedjax_kd.commands._parser import Section, flag, parse
from fedjax_kd.commands.run import config_of, leading_methods
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import JUDGED
from fedjax_kd.options import nearest
from fedjax_kd.problems import Problem
from fedjax_kd.runs.config import Config, TrainingConfig
from fedjax_kd.runs.data_config import DataConfig
from fedjax_kd.runs.user_functions import named_metrics
from fedjax_kd.sweeps import axes
from fedjax_kd.sweeps.axes import Axis, Range, Setting
from fedjax_kd.sweeps.halving import Halving, Score, scoring
from fedjax_kd.sweeps.parameters import METHOD, known_parameters, unknown_parameter
from fedjax_kd.sweeps.shard import FederationLoader, federation_loader
from fedjax_kd.sweeps.study import Search, Study, checked

HELP = """Trains many configurations of one or several methods, each with several seeds.

Configurations that differ in numbers alone (learning rates, mu, tau, ...) are trained side by side
in one program; others (model, batch size, ...) are grouped, and each group is compiled once. A
parameter that only some of the methods have is varied for these. `server-lr` is the learning rate
of the server, whatever a method calls it.

Examples:
  fedjax-kd sweep fedadam --grid server-lr=1e-3:1e1:log5 --grid client-lr=0.03,0.1,0.3 --seeds 3
  fedjax-kd sweep fedavg fedyogi --grid client-lr=1e-2:1:log --samples 20 --halving 3
  fedjax-kd sweep fedprox --table points.csv --num-rounds 200 --reach 0.9
  fedjax-kd sweep fedavg --with top_k --grid top_k.keep=0.01,0.1,1.0

Values are a list (0.01,0.1), points between two ends (1e-3:1e1:log5, 0:1:lin3), or, with --samples
or --trials, two ends to draw from (1e-3:1e1:log, 0:1:lin). `fedjax-kd resume` goes on with a sweep
that was stopped, `fedjax-kd report` makes a page of it."""

WHAT = Section(
    "sweep",
    "What is tried, and how it is judged",
    [
        flag("grid", type=tuple[str, ...], default=(), help="NAME=VALUES, may be repeated"),
        flag("samples", type=int | None, help="random configurations from the grid's values, >= 1"),
        flag("table", help="a CSV or JSON file with a configuration a row, instead of a grid"),
        flag(
            "trials",
            type=int | None,
            help="configurations that Optuna proposes, >= 1 (needs optuna)",
        ),
        flag("batch", type=int, default=16, help="trials that Optuna proposes at a time, >= 1"),
        flag(
            "seeds", type=int, default=1, help="seeds of every configuration, >= 1, from --seed on"
        ),
        flag(
            "metric",
            help="column that makes a point good; by default what a method is judged by",
        ),
        flag("last", type=int, default=1, help="rounds at the end over which it is averaged, >= 1"),
        flag(
            "reach",
            type=float | None,
            help="any number, of the metric, for the table of rounds to it",
        ),
        flag(
            "halving",
            type=int | None,
            help="successive halving, >= 2: the best 1/N go on after each rung; none if not given",
        ),
        flag(
            "first_rung",
            type=int | None,
            help="rounds before the first rung, >= 1 (default: all rounds / N / N)",
        ),
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    methods, rest = leading_methods(args)
    prog = " ".join(["fedjax-kd sweep", *methods])
    if not methods:
        parse(f"{prog} METHOD...", HELP, [WHAT, _sweeping.SWEEP_OUTPUT], _help_only(rest))
        raise InputError("fedjax-kd sweep needs a method: `fedjax-kd list methods` shows them.")
    options = [WHAT, *_options.of_run(methods, rest), _sweeping.SWEEP_OUTPUT]
    found = parse(prog, HELP, options, _gathered(rest))
    bases = {m: _base(m, found) for m in methods}
    load = federation_loader()
    return _sweeping.start_sweep(_study(bases, found, load), found["output"], load)


def _help_only(args: Sequence[str]) -> list[str]:
    return [a for a in args if a in ("-h", "--help")]


def _gathered(args: Sequence[str]) -> list[str]:
    """The arguments with all values of ``--grid``, which may be repeated, in one place.

    Example:
      >>> _gathered(["--grid", "a=1", "--seeds", "3", "--grid=b=2"])
      ['--seeds', '3', '--grid', 'a=1', 'b=2']
    """
    others, grid, inside = [], [], False
    for arg in args:
        inside = arg == "--grid" or (inside and not arg.startswith("--"))
        if arg.startswith("--grid="):
            grid.append(arg.removeprefix("--grid="))
        elif not inside:
            others.append(arg)
        elif arg != "--grid":
            grid.append(arg)
    return [*others, "--grid", *grid] if grid else others


def _base(method: str, found: Mapping[str, Any]) -> Config:
    """The configuration of a method without the sweep; its data have the seed of each point."""
    config = config_of(method, found)
    return replace(config, data=replace(config.data, seed=found["data"]["seed"]))


def _study(bases: Mapping[str, Config], found: Mapping[str, Any], load: FederationLoader) -> Study:
    """What is to be trained."""
    asked, first = found["sweep"], next(iter(bases.values())).training
    _check(asked)
    texts = {method: _texts(asked["grid"], method, bases) for method in bases}
    search = None
    if asked["trials"] is not None:
        search = Search(asked["trials"], asked["batch"], texts)
    study = Study(
        bases=bases,
        settings=() if search else tuple(_settings(bases, texts, asked, first.seed)),
        seeds=tuple(range(first.seed, first.seed + asked["seeds"])),
        how=_score(first, load(_data_of(bases, first.seed)).problem, asked),
        halving=_halving(asked, first.num_rounds),
        target=asked["reach"],
        shares=max(found["output"]["workers"] or 1, 1),
        search=search,
    )
    return checked(study)


def _score(training: TrainingConfig, problem: Problem, asked: Mapping[str, Any]) -> Score:
    """The column that makes a point good: by default what methods are judged by."""
    column = asked["metric"] or f"{JUDGED}{problem.headline}"
    return scoring(column, asked["last"], named_metrics(training.metrics))


def _data_of(bases: Mapping[str, Config], seed: int) -> DataConfig:
    """The data of the first point."""
    data = next(iter(bases.values())).data
    return replace(data, seed=seed if data.seed is None else data.seed)


def _settings(
    bases: Mapping[str, Config],
    texts: Mapping[str, Mapping[str, str]],
    asked: Mapping[str, Any],
    seed: int,
) -> Iterator[Setting]:
    """The configurations of a table, of random draws, or of a grid."""
    if asked["table"] is not None:
        for row in axes.table(asked["table"]):
            yield from _of_table(row, bases)
        return
    for method, own in texts.items():
        varied = {name: axes.axis(text) for name, text in own.items()}
        drawn = asked["samples"] is not None
        found = (
            axes.sample(varied, asked["samples"], seed) if drawn else axes.grid(**_finite(varied))
        )
        yield from ({METHOD: method, **setting} for setting in found)


def _check(asked: Mapping[str, Any]) -> None:
    if not asked["grid"] and asked["table"] is None:
        raise InputError(
            "The sweep varies nothing: give --grid NAME=VALUES, such as "
            "--grid client-lr=1e-3:1:log4, or --table FILE."
        )
    if asked["table"] is not None and (asked["grid"] or asked["samples"] or asked["trials"]):
        raise InputError("A table says all: leave out --grid, --samples and --trials beside it.")
    if asked["samples"] is not None and asked["trials"] is not None:
        raise InputError("Either --samples draws configurations or --trials: give one of them.")


def _texts(grid: Sequence[str], method: str, bases: Mapping[str, Config]) -> dict[str, str]:
    """The texts of one method's axes, by name."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for text in grid:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise InputError(f"--grid {text!r} has no '=': give NAME=VALUES.")
        if name == "seed":
            raise InputError("Seeds are no axis of the grid: give --seeds, and --seed the first.")
        if not any(name in known_parameters(config) for config in bases.values()):
            raise InputError(unknown_parameter(name, bases))
        if name in seen:
            raise InputError(f"--grid names {name} twice: give all its values at once.")
        seen.add(name)
        axes.axis(values)
        if name in known_parameters(bases[method]):
            found[name] = values
    return found


def _finite(varied: Mapping[str, Axis]) -> dict[str, Sequence[Any]]:
    """Axes of which every value can be tried."""
    found: dict[str, Sequence[Any]] = {}
    for name, values in varied.items():
        if isinstance(values, Range):
            low, high, log = values
            kind = "log" if log else "lin"
            raise InputError(
                f"{name} has no number of points: give {low:g}:{high:g}:{kind}5, or draw from the "
                "range by --samples or --trials."
            )
        found[name] = values
    return found


def _of_table(row: Setting, bases: Mapping[str, Config]) -> list[Setting]:
    """The configurations that a row of a table stands for: of its method, or of each one."""
    method = row.get(METHOD)
    if method is not None and method not in bases:
        raise InputError(
            f"The table names the method {method!r}{nearest(str(method), bases)}, but the command "
            f"only {', '.join(bases)}: add it there."
        )
    for name in row:
        if name != METHOD and not any(
            name in known_parameters(config) for config in bases.values()
        ):
            raise InputError(unknown_parameter(name, bases))
    chosen = bases if method is None else [str(method)]
    return [
        {
            METHOD: m,
            **{k: v for k, v in row.items() if k != METHOD and k in known_parameters(bases[m])},
        }
        for m in chosen
    ]


def _halving(asked: Mapping[str, Any], num_rounds: int) -> Halving | None:
    eta, first = asked["halving"], asked["first_rung"]
    if eta is None:
        if first is not None:
            raise InputError("first_rung is given without halving: add --halving, e.g. 3.")
        return None
    return Halving(eta, first if first is not None else max(num_rounds // max(eta, 1) ** 2, 1))
