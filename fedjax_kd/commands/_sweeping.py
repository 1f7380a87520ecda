"""A sweep in its folder: from its first round, or from where it was stopped, to its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from fedjax_kd.commands._announce import announce, announce_convolution
from fedjax_kd.commands._parser import Section, flag
from fedjax_kd.report import partition, table_files, tables
from fedjax_kd.report.sweeps import best_by
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import lock
from fedjax_kd.runs.data_config import federation_of
from fedjax_kd.runs.interrupt import EXIT_CODE, asked_to_stop
from fedjax_kd.runs.progress import show_progress, stderr
from fedjax_kd.sweeps import proposals, workers
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps.axes import Setting
from fedjax_kd.sweeps.parameters import METHOD
from fedjax_kd.sweeps.record import begin_stretch
from fedjax_kd.sweeps.shard import (
    FederationLoader,
    Shard,
    ShardHooks,
    family_for,
    federation_loader,
)
from fedjax_kd.sweeps.study import Study
from fedjax_kd.sweeps.workers import Cluster
from fedjax_kd.train import Row

_PICTURES = 3  # of splits

SWEEP_OUTPUT = Section(
    "output",
    "Where it goes, and on what it runs",
    [
        flag("out", help="folder, new or empty (default: runs/DATE-TIME-sweep-METHODS)"),
        flag("workers", type=int | None, help="processes of Ray, >= 1, a device each (needs ray)"),
        flag("ray_address", help="of a running Ray cluster; by default one is started here"),
        flag("quiet", type=bool, default=False, help="show nothing but the result"),
    ],
)


def start_sweep(study: Study, output: Mapping[str, Any], load: FederationLoader) -> int:
    """Carries out a new sweep; returns the exit code."""
    workers.cluster(output["workers"], output["ray_address"])
    announce_convolution(quiet=output["quiet"])
    proposals.check_proposals(study)
    if study.settings:
        families = [
            family_for(study, g[0].configs, load) for g in sweep_runner.shards(Path(), study)
        ]
        announce(study, families, quiet=output["quiet"])
    folder = run_folder.create(output["out"], "-".join(["sweep", *study.bases]))
    with lock.held([folder], "fedjax-kd sweep"):
        run_folder.check_unused(folder)  # another process may have been faster
        sweep_runner.write_study(folder, study)
        return _continued(folder, output, load)


def resume_sweep(folder: Path, output: Mapping[str, Any]) -> int:
    """Carries out what is left of a sweep; returns the exit code."""
    announce_convolution(quiet=output["quiet"])
    with lock.held([folder], "fedjax-kd resume"):
        return _continued(folder, output, federation_loader())


def _continued(folder: Path, output: Mapping[str, Any], load: FederationLoader) -> int:
    """Carries out what is left of a sweep whose folder is ours; returns the exit code."""
    by = workers.cluster(output["workers"], output["ray_address"])
    study = sweep_runner.read_study(folder)
    _draw_partitions(study, folder)
    changed = output.get("changed_data", False)
    with asked_to_stop() as asked:
        while True:
            watching = Watching(load, asked, output["quiet"], changed)
            finished = _train(study, folder, by, watching)
            if not finished or not proposals.remain(study):
                break
            study = proposals.extended(folder, study)
            sweep_runner.write_study(folder, study)
    sweep_runner.write_tables(folder, study)
    if finished:
        sweep_runner.settle(folder, study)
    tables.show(_best(folder, study))
    if not finished:
        stderr().print(f"Interrupted; go on with: fedjax-kd resume {folder}", markup=False)
    elif not output["quiet"]:
        stderr().print(f"A page of it: fedjax-kd report {folder}", markup=False)
    print(folder)
    return 0 if finished else EXIT_CODE


class Watching(NamedTuple):
    """Arguments of training beside the study: data, whether to stop, whether to show nothing, and
    whether other data than before are as good.
    """

    load: FederationLoader
    asked: Callable[[], bool]
    quiet: bool
    changed_data: bool


def _train(study: Study, folder: Path, by: Cluster | None, watching: Watching) -> bool:
    """Trains all configurations that are known so far; whether they are finished."""
    groups = [
        g for g in sweep_runner.shards(folder, study) if not sweep_runner.is_finished(study, g)
    ]
    if not groups:
        return True
    begin_stretch(folder, study, groups, watching.load, changed_data=watching.changed_data)
    names = {part.folder: _name(study, part) for group in groups for part in group}
    rounds = dict.fromkeys(names.values(), study.num_rounds)
    with show_progress(rounds, quiet=watching.quiet) as show:
        if by is not None:
            hooks = workers.WorkerHooks(
                lambda job: show(names[job.part.folder], job.until, {"points": len(job.live)}),
                watching.asked,
            )
            return workers.train_by_ray(folder, study, groups, by, hooks)

        def watch(part: Shard) -> ShardHooks:
            def show_block(finished: int, rows: Mapping[int, Sequence[Row]]) -> None:
                show(names[part.folder], finished, _known(study, rows))

            return ShardHooks(show_block, watching.asked)

        return workers.train_here(study, groups, watching.load, watch)


def _name(study: Study, part: Shard) -> str:
    """The name of a part in the display."""
    settings = [study.settings[n] for n in part.configs]
    fixed = {k: v for k, v in settings[0].items() if k != METHOD and not isinstance(v, float)}
    words = [str(settings[0][METHOD]), *(f"{k} {v}" for k, v in fixed.items())]
    return f"{part.folder.name} {' '.join(words)}"


def _known(study: Study, rows: Mapping[int, Sequence[Row]]) -> dict[str, float]:
    """The numbers of a block in the display: points that are left, and the best score."""
    metric = study.how.metric
    values = [row[metric] for own in rows.values() for row in own[-1:] if metric in row]
    finite = [value for value in values if math.isfinite(value)]
    best = max if study.how.goal == "max" else min
    return {"points": len(rows), **({f"best {metric}": best(finite)} if finite else {})}


def _draw_partitions(study: Study, folder: Path) -> None:
    """The pictures of the split among clients that are not drawn yet: of the first seeds, where it
    depends on them.
    """
    nothing: Setting = {METHOD: next(iter(study.bases))}
    first = study.settings[0] if study.settings else nothing
    known = replace(study, settings=(first,))
    follows = next(iter(study.bases.values())).data.seed is None
    for seed in study.seeds[: _PICTURES if follows else 1]:
        path = folder / f"partition-seed{seed}.png"
        if path.exists():
            continue
        dataset, federation = federation_of(known.config(0, seed).data)
        if dataset is not None:
            partition.draw_partition(dataset, federation.parts, path)


def _best(folder: Path, study: Study) -> Table:
    """The best configuration of each method."""
    points = table_files.read_table(folder / "points.csv")
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [name for name in study.parameters if name != METHOD]
    for title in ("method", *names):
        table.add_column(title.replace("_", " "))
    for title in (study.how.metric.replace("_", " "), "deviation", "seeds", "status"):
        table.add_column(title, justify="right")
    for method, best in best_by(points, METHOD, study.how.goal).items():
        if best is None:
            table.add_row(str(method), *["-" for _ in names], "-", "-", "-", "diverged")
            continue
        values = [best.point.get(name) for name in names]
        shown = [
            "-" if v is None else format(v, ".4g" if isinstance(v, float) else "") for v in values
        ]
        score = best.score
        spread = "-" if score.deviation is None else f"{score.deviation:.4f}"
        table.add_row(
            str(method), *shown, f"{score.mean:.4f}", spread, str(score.seeds), best.status
        )
    return table
