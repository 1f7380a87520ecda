"""Sweeps and runs, read from their folders into the one form of a study."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedjax_kd.engine.early_stopping import STOPPED_EARLY
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import TRAIT, metric_of
from fedjax_kd.report import table_files, tables
from fedjax_kd.report.axes import COUNTED
from fedjax_kd.report.estimates import Goal, goal_of, headline_metric, number
from fedjax_kd.report.studies import FURTHER, StudyPoints, check_metric, scored
from fedjax_kd.report.sweeps import DIVERGED, FINISHED, RUNNING, STOPPED, best_by
from fedjax_kd.report.table_files import CellValue, Record
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.config import Config, to_json

FORMAT = 1
_MAKING = ("environment", "environments", "fingerprints")  # beside the configuration of a run
_KEYS = ("point", "config", "seed", "round")


def read_studies(folders: Sequence[Path], metric: str | None = None) -> list[StudyPoints]:
    """One study for each sweep, and one for all runs on the same data.

    Args:
      folders: of sweeps, of runs, or of several of them.
      metric: to compare by; by default a sweep's own, and what runs are judged by.

    Raises:
      ValueError: if a folder is none of these, a sweep has no finished round, or a metric is
        unknown.
    """
    sweeps, members = [], []
    for folder in folders:
        inner = [path.parent for path in sorted(folder.glob("*/sweep.json"))]
        inner = [folder] if (folder / "sweep.json").is_file() else inner
        sweeps += inner
        members += _runs(folder, optional=bool(inner))
    alike: dict[str, list[Path]] = {}
    for member in dict.fromkeys(members):
        data = {**to_json(_seedless(run_folder.read_config(member)))["data"], "data_dir": None}
        alike.setdefault(json.dumps(data, sort_keys=True), []).append(member)
    return [
        *(read_sweep(folder, metric) for folder in dict.fromkeys(sweeps)),
        *(read_runs(found, metric) for found in alike.values()),
    ]


def _runs(folder: Path, *, optional: bool) -> list[Path]:
    """Run folders in a folder; none in one that holds sweeps."""
    if not (folder / "config.json").is_file() and not any(folder.glob("*/config.json")):
        if optional:
            return []
        raise InputError(
            f"{folder} is neither a run nor a sweep, and holds none: there is no config.json or "
            "sweep.json. Give a path that `fedjax-kd run` or `fedjax-kd sweep` printed last."
        )
    return run_folder.members(folder)


def read_sweep(folder: Path, metric: str | None = None) -> StudyPoints:
    """A sweep, from what its folder holds.

    Args:
      folder: of the sweep.
      metric: to compare by, instead of the sweep's own.

    Raises:
      ValueError: if it is no sweep, of another version, has no finished round, or no such metric.
    """
    about = run_folder.read_json(folder, "sweep.json")
    if about.get("format") != FORMAT or about.get("kind") != "sweep":
        raise InputError(
            f"{folder}/sweep.json is of kind {about.get('kind')!r} and format "
            f"{about.get('format')!r}, but this version reads sweeps of format {FORMAT}: use the "
            "version that wrote it."
        )
    points = _points(folder, about)
    own = metric is None or metric == about["metric"]
    chosen = about["metric"] if metric is None else metric
    goal: Goal = about["goal"] if own else goal_of(chosen)
    if not own:
        seen = _results(folder, {"point", "round", chosen})
        check_metric(seen, chosen, folder)
        points = scored(points, seen, chosen, about["last"])
    shown = [found.config for found in best_by(points, goal=goal).values() if found is not None]
    return StudyPoints(
        title=f"Sweep {folder.resolve().name}",
        is_sweep=True,
        parameters=tuple(about["parameters"]),
        by="method",
        metric=chosen,
        goal=goal,
        last=about["last"],
        target=about.get("target") if own else None,
        points=points,
        rounds=_results(folder, _kept(chosen), {"config": shown}),
        summaries={},
        pictures={p.stem: p.read_bytes() for p in sorted(folder.glob("partition*.png"))},
        documents=_documents(about),
    )


def _points(folder: Path, about: Mapping[str, Any]) -> list[dict[str, CellValue]]:
    """The points of a sweep that have begun; each has a method and a status."""
    path = folder / "points.csv"
    points = table_files.read_table(path) if path.is_file() else []
    if not any(point["finished_rounds"] for point in points):
        raise InputError(
            f"The sweep {folder} is empty: no point of it has finished a round. Go on with it by "
            f"`fedjax-kd resume {folder}`."
        )
    method = dict.fromkeys(["method"], next(iter(about["base"]), None))
    return [{**method, **point, "status": point["status"] or RUNNING} for point in points]


def _results(
    folder: Path, columns: table_files.Columns, where: table_files.Where | None = None
) -> list[dict[str, CellValue]]:
    """Rows of a sweep's results, from the file that is read faster."""
    found = [folder / f"results.{kind}" for kind in ("parquet", "csv")]
    path = next((path for path in found if path.is_file()), None)
    return table_files.read_table(path, columns, where) if path else []


def _kept(metric: str) -> Callable[[str], bool]:
    """Whether a column may be shown by round: the metric, the test set's, losses, and traits."""
    named = {*_KEYS, metric, f"test_{metric_of(metric)}", *FURTHER, *COUNTED}
    return lambda column: column in named or column.startswith(TRAIT)


def _documents(about: Mapping[str, Any]) -> dict[str, Any]:
    """The plan, settings and versions of a sweep, with which it can be repeated."""
    plan = {k: about[k] for k in ("num_rounds", "seeds", "last", "halving", "search") if k in about}
    settings = {str(p["config"]): p["parameters"] for p in about["points"]}
    base = {f"Configuration of {method}": values for method, values in about["base"].items()}
    return {
        "Plan": plan,
        **base,
        "Settings by configuration": settings,
        "Versions": _versions(about),
    }


def _versions(file: Mapping[str, Any]) -> Any:
    """Versions and device, of each stretch where there are several."""
    several = file.get("environments", ())
    return several if len(several) > 1 else file.get("environment", {})


def read_runs(folders: Sequence[Path], metric: str | None = None) -> StudyPoints:
    """Runs as a study: a configuration is everything but the seed, a point is a run.

    Args:
      folders: of the runs.
      metric: to compare by; what the runs are judged by if None.

    Raises:
      ValueError: if a folder is no run folder, no run has a row, or none has the metric.
    """
    configs = [run_folder.read_config(folder) for folder in folders]
    numbers = _numbers(configs)
    first = [numbers.index(n) for n in range(max(numbers) + 1)]
    names = tables.labels([_seedless(configs[i]) for i in first], [str(folders[i]) for i in first])
    abouts = [
        {"point": i, "config": n, "seed": configs[i].training.seed}
        | {"run": names[n], "method": configs[i].method}
        for i, n in enumerate(numbers)
    ]
    rows = [run_folder.read_rows(folder) for folder in folders]
    rounds = [{**about, **row} for about, own in zip(abouts, rows, strict=True) for row in own]
    chosen = metric or headline_metric(rounds)
    check_metric(rounds, chosen, " and ".join(map(str, folders)))
    summaries = [run_folder.read_summary(folder) for folder in folders]
    points = [
        {**about, **_progress(summary, own)}
        for about, summary, own in zip(abouts, summaries, rows, strict=True)
    ]
    data = configs[0].data
    return StudyPoints(
        title=f"Runs on {data.dataset}, {data.partition} partition",
        is_sweep=False,
        parameters=("run",),
        by="run",
        metric=chosen,
        goal=goal_of(chosen),
        last=1,
        target=None,
        points=scored(points, rounds, chosen),
        rounds=rounds,
        summaries=dict(enumerate(summaries)),
        pictures=_partitions(folders, configs),
        documents=_own_documents([folders[i] for i in first], names),
    )


def _numbers(configs: Sequence[Config]) -> list[int]:
    """The number of each run's configuration. A run that repeats another's seed has its own."""
    known: dict[tuple[str, int], int] = {}
    times: Counter[str] = Counter()
    numbers = []
    for config in configs:
        whole = json.dumps(to_json(config), sort_keys=True)
        key = (json.dumps(to_json(_seedless(config)), sort_keys=True), times[whole])
        times[whole] += 1
        numbers.append(known.setdefault(key, len(known)))
    return numbers


def _seedless(config: Config) -> Config:
    """The configuration with seed 0, and the split's too if it goes with it."""
    follows = config.data.seed == config.training.seed
    data = replace(config.data, seed=0) if follows else config.data
    return replace(config, data=data, training=replace(config.training, seed=0))


def _progress(summary: Mapping[str, Any], rows: Sequence[Record]) -> dict[str, CellValue]:
    """Status and finished rounds of a run."""
    finished = summary.get("finished_rounds", int(number(rows[-1]["round"])) if rows else 0)
    losses = [number(row["test_loss"]) for row in rows if row.get("test_loss") is not None]
    status = {FINISHED: FINISHED, STOPPED_EARLY: STOPPED}.get(summary.get("status", ""), RUNNING)
    lost = bool(losses) and not math.isfinite(losses[-1])
    return {"status": DIVERGED if lost else status, "finished_rounds": finished}


def _partitions(folders: Sequence[Path], configs: Sequence[Config]) -> dict[str, bytes]:
    """The picture of the split of each seed, from a run's folder or its comparison's."""
    found: dict[str, bytes] = {}
    for folder, config in zip(folders, configs, strict=True):
        name = f"partition-seed{config.data.seed}"
        for path in (folder / "partition.png", folder.parent / "partition.png"):
            if name not in found and path.is_file():
                found[name] = path.read_bytes()
    return found


def _own_documents(folders: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Configurations, warnings and versions of runs; versions that agree are told once."""
    files = [run_folder.read_json(folder, "config.json") for folder in folders]
    versions = [_versions(file) for file in files]
    edges = [file.pop("warnings", []) for file in files]
    files = [{k: v for k, v in file.items() if k not in _MAKING} for file in files]
    found = {f"Configuration of {name}": file for name, file in zip(names, files, strict=True)}
    found |= {f"Warnings of {n}": known for n, known in zip(names, edges, strict=True) if known}
    if all(other == versions[0] for other in versions):
        return found | {"Versions": versions[0]}
    return found | {f"Versions of {n}": v for n, v in zip(names, versions, strict=True)}
