"""Carrying out a study in its folder: groups of points, part by part, rung by rung.

Everything is decided from what lies in the folder, so a sweep that was killed at any moment goes on
by being started again; parts that are finished are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_kd.errors import InputError
from fedjax_kd.metrics import judged_column, metric_of
from fedjax_kd.report import table_files
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.provenance import environment
from fedjax_kd.sweeps.halving import diverged, selected
from fedjax_kd.sweeps.shard import Job, Shard, finish_shard, shard_rows
from fedjax_kd.sweeps.study import Study, from_plain, groups, to_plain
from fedjax_kd.train import Row

FILE, PARTS = "sweep.json", "parts"
_RECORD = ("environment", "environments", "fingerprints")


Runner = Callable[[Sequence[Job]], bool]
"""Trains some parts of a group, whichever way; whether all of them got there."""


def write_study(folder: Path, study: Study, record: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.json.

    Args:
      folder: of the sweep.
      study: to be written.
      record: of versions, device and data; by default as it stands, or else of this machine.
    """
    known = record or sweep_record(folder) or {"environment": environment()}
    run_folder.write_json(folder / FILE, {**to_plain(study), **known})


def sweep_record(folder: Path) -> dict[str, Any]:
    """What sweep.json says of versions, device and data; empty if there is none."""
    if not is_sweep(folder):
        return {}
    values = run_folder.read_json(folder, FILE)
    return {name: values[name] for name in _RECORD if name in values}


def read_study(folder: Path) -> Study:
    """The study of a folder.

    Raises:
      ValueError: if it holds none, or one of another version.
    """
    if not is_sweep(folder):
        raise InputError(f"{folder} is no sweep: it holds no {FILE}.")
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / FILE} is damaged ({error}): start a new sweep.") from error
    return from_plain(values)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()


def shards(folder: Path, study: Study) -> list[list[Shard]]:
    """The parts of each group, configurations dealt out among them in turn."""
    found = []
    for number, group in enumerate(groups(study)):
        dealt = [tuple(group[share :: study.shares]) for share in range(study.shares)]
        found.append(
            [
                Shard(folder / PARTS / f"{number:03d}-{share}", configs)
                for share, configs in enumerate(dealt)
                if configs
            ]
        )
    return found


def train_group(study: Study, group: Sequence[Shard], runner: Runner) -> bool:
    """Trains the points of one group to the end, or until the runner stops.

    Returns:
      Whether the group is finished.
    """
    live: Collection[int] = study.points_of([n for part in group for n in part.configs])
    for rung in study.rungs():
        jobs = [
            Job(part, tuple(p for p in study.points_of(part.configs) if p in live), rung)
            for part in group
        ]
        if not runner([job for job in jobs if job.live]):
            return False
        live = _going_on(study, live, group, rung)
    return True


def _going_on(study: Study, live: Collection[int], group: Iterable[Shard], rung: int) -> list[int]:
    """The points that go on after a rung that all of them have reached."""
    rows = {p: own for part in group for p, own in shard_rows(part, rung).items()}
    left = [p for p in live if not diverged(rows[p])]
    if study.halving is None or rung == study.num_rounds:
        return left
    config_of = {p: study.config_number(p) for p in live}
    return selected(config_of, left, rows, study.how, study.halving.eta)


def is_finished(study: Study, group: Sequence[Shard]) -> bool:
    """Whether every point of a group that was not stopped has reached the last round."""
    return "running" not in outcomes(study, group).values()


def outcomes(study: Study, group: Sequence[Shard]) -> dict[int, str]:
    """The status of each point of a group so far.

    "finished", "diverged", "stopped" by halving, or "running".
    """
    rows = {p: own for part in group for p, own in shard_rows(part).items()}
    live: Collection[int] = study.points_of([n for part in group for n in part.configs])
    found = {p: "diverged" if diverged(rows.get(p, ())) else "running" for p in live}
    for rung in study.rungs():
        reached = {p for p in live if p in rows and rows[p][-1]["round"] >= rung}
        if any(p not in reached and found[p] == "running" for p in live):
            return found
        if rung == study.num_rounds:
            return found | {p: "finished" for p in reached if found[p] == "running"}
        left = _going_on(study, live, group, rung)
        found |= {p: "stopped" for p in live if p not in left and found[p] == "running"}
        live = left
    return found


def settle(folder: Path, study: Study) -> None:
    """Closes every part of a finished sweep, also those after whose last row a kill came."""
    for group in shards(folder, study):
        for part in group:
            finish_shard(part, study.num_rounds)


def write_tables(folder: Path, study: Study) -> None:
    """Writes points.csv, results.csv and results.parquet from the parts of a sweep."""
    results: list[Mapping[str, Any]] = []
    points: list[Mapping[str, Any]] = []
    for group in shards(folder, study):
        status_of = outcomes(study, group)
        rows = {p: own for part in group for p, own in shard_rows(part).items()}
        for point, own in rows.items():
            about = _about(study, point)
            results += [{**about, **row, "round": int(row["round"])} for row in own]
            points.append(about | _summary(study, own, status_of[point]))
    by_point = {p["point"]: p for p in points}
    table_files.write_table(folder / "points.csv", [by_point[p] for p in sorted(by_point)])
    ordered = sorted(results, key=lambda row: (row["point"], row["round"]))
    for kind in ("csv", "parquet"):
        table_files.write_table(folder / f"results.{kind}", ordered)


def _about(study: Study, point: int) -> dict[str, Any]:
    config = study.config_number(point)
    own = study.settings[config]
    setting = {name: own.get(name) for name in study.parameters}
    return {"point": point, "config": config, "seed": study.seed(point), **setting}


def _summary(study: Study, rows: Sequence[Row], status: str) -> dict[str, Any]:
    """The results of a point in points.csv, beside its configuration and seed."""
    evaluated = [row for row in rows if "test_loss" in row]
    last = evaluated[-1] if evaluated else {}
    judged = judged_column(last) or "test_loss"
    kept = dict.fromkeys((f"test_{metric_of(judged)}", "test_loss", judged))
    shown = {f"final_{k}": last[k] for k in kept if k in last}
    return {
        "status": status,
        "finished_rounds": int(rows[-1]["round"]),
        "score": study.how.of(rows),
        **shown,
    }
