"""A part of a sweep in its folder: points of one program, trained round by round with checkpoints.

============ ====================================================================================
part.json    how far it is, what it cost, and how many points run at once
metrics.csv  a row a point and round, in the order in which they were trained
checkpoints  states of the points that are left, until the part is finished
============ ====================================================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_kd.core import Algorithm, State
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError
from fedjax_kd.options import nearest
from fedjax_kd.runs import checkpoint
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import algorithm_of, build, task_of
from fedjax_kd.runs.config import Config, from_json
from fedjax_kd.runs.data_config import DataConfig, federation_of
from fedjax_kd.runs.pacer import Pacer
from fedjax_kd.sweeps import widths
from fedjax_kd.sweeps.family import Family, Make, Member, family_of, sharing
from fedjax_kd.sweeps.parameters import plain_with
from fedjax_kd.sweeps.program import POINTS
from fedjax_kd.sweeps.rounds import States, Step, train_points
from fedjax_kd.sweeps.study import Study, hyper_parameters
from fedjax_kd.sweeps.tiles import Width
from fedjax_kd.train import Row, Seconds, columns_of

FederationLoader = Callable[[DataConfig], Federation]

_LEAST_SECONDS = 30.0  # between two checkpoints


class Shard(NamedTuple):
    """Configurations that one program trains, and the folder of their results."""

    folder: Path
    configs: tuple[int, ...]


class ShardHooks(NamedTuple):
    """Callbacks after each block of rounds: the progress display, and whether to stop."""

    show: Callable[[int, dict[int, list[Row]]], None]
    stop: Callable[[], bool]


class Job(NamedTuple):
    """Points of one part that are to be trained up to a round."""

    part: Shard
    live: tuple[int, ...]
    until: int  # one of the study's rungs


def federation_loader() -> FederationLoader:
    """Loads federations; each once, and examples that several share once for all."""
    loaded: dict[str, Federation] = {}

    def load(data: DataConfig) -> Federation:
        name = repr(data)
        if name not in loaded:
            _, found = federation_of(data)
            for known in loaded.values():
                found = sharing(known, found)
            loaded[name] = found
        return loaded[name]

    return load


def family_for(study: Study, configs: Sequence[int], load: FederationLoader) -> Family:
    """The points of some configurations of a study, ready for one program.

    Raises:
      ValueError: if an option is out of its range, or these points cannot run in one program.
      TypeError: if the method breaks the contract.
    """
    config = study.config(configs[0], study.seeds[0])
    devices = config.training.devices
    mesh = None if devices == 1 else make_mesh(devices, POINTS)

    def simulation(seed: int) -> Simulation:
        own = study.config(configs[0], seed)
        alone = replace(own.training, devices=1, chunk=1)
        return build(replace(own, training=alone), load(own.data))

    simulations = {seed: simulation(seed) for seed in study.seeds}
    members = {
        p: Member(n, study.seed(p), hyper_parameters(study, n))
        for p in study.points_of(configs)
        for n in [study.config_number(p)]
    }
    _check_metric(study.how.metric, simulations[study.seeds[0]])
    first = simulations[study.seeds[0]].federation
    return family_of(_maker(config, first), members, simulations, mesh)


def _check_metric(metric: str, s: Simulation) -> None:
    known = columns_of(s)
    if metric not in known:
        raise InputError(
            f"There is no metric {metric!r} to judge points by{nearest(metric, known)}. There are: "
            f"{', '.join(known)}."
        )


def _maker(config: Config, federation: Federation) -> Make:
    """The algorithm of a configuration with other numbers, which may be traced."""
    task = task_of(config, federation)

    def make(values: Any) -> Algorithm:
        return algorithm_of(from_json(plain_with(config, values)), task, federation)

    return make


def train_shard(study: Study, job: Job, load: FederationLoader, watch: ShardHooks) -> bool:
    """Trains the points of a part up to a round, from where they are.

    Args:
      study: that the part belongs to.
      job: what is to be done.
      load: from `federation_loader`.
      watch: called after each block of rounds.

    Returns:
      Whether they have reached that round; they have not if they were asked to stop.
    """
    part, live, until = job
    about, folder = shard_status(part), part.folder / "checkpoints"
    saved = max(checkpoint.finished_rounds(folder), default=None)
    if until <= max(about.get("finished", -1), -1 if saved is None else saved):
        return True
    part.folder.mkdir(parents=True, exist_ok=True)
    run_folder.truncate_rows(part.folder, saved)
    family = family_for(study, part.configs, load)
    states = None if saved is None else _restored(folder, family, saved, live)
    left, first = sorted(live if states is None else states), saved or 0
    width = Width(**about["width"]) if about.get("until") == until else None
    width = width or widths.choose_width(family, left, until - first)
    earlier = about.get("seconds", Seconds()._asdict())
    about = {"until": until, "width": width._asdict(), "seconds": earlier}
    _note(part, about)
    steps = train_points(family, left, width, first=first, until=until, states=states)
    return _record(job, steps, about, watch, family.first)


def _record(
    job: Job, steps: Iterator[Step], about: dict[str, Any], watch: ShardHooks, s: Simulation
) -> bool:
    """Writes rows and checkpoints of each block; whether all rounds were trained."""
    part, columns, earlier = job.part, _header(job.part), about["seconds"]
    pacer = Pacer.starting(least_seconds=_LEAST_SECONDS)
    for step in steps:
        columns = columns or ["point", *run_folder.COUNTS, *columns_of(s)]
        new = [{"point": p, **row} for p, own in step.rows.items() for row in own]
        run_folder.append_rows(part.folder, columns, new)
        watch.show(step.finished, step.rows)
        spent = {k: earlier[k] + v for k, v in step.seconds._asdict().items()}
        about = about | {"seconds": spent}
        last = step.finished == job.until or not step.left
        stopping = watch.stop() and not last
        if last and (job.until == s.num_rounds or not step.left):
            _note(part, about)
            finish_shard(part, s.num_rounds)
        elif last or stopping or pacer.is_due(step.finished):
            pacer = pacer.after(step.finished, partial(_save, part, step, about))
        if stopping:
            return False
    return True


def finish_shard(part: Shard, num_rounds: int) -> None:
    """Says that a part needs no more training, and removes its checkpoints."""
    about = shard_status(part)
    if about and about.get("finished") != num_rounds:
        _note(part, about | {"finished": num_rounds})
    shutil.rmtree(part.folder / "checkpoints", ignore_errors=True)


def shard_status(part: Shard) -> dict[str, Any]:
    """What part.json says; empty before there is one."""
    path = part.folder / "part.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def shard_rows(part: Shard, until: float = float("inf")) -> dict[int, list[Row]]:
    """The rows of each point of a part, up to a round."""
    found: dict[int, list[Row]] = {}
    for row in run_folder.read_rows(part.folder):
        if row["round"] <= until:
            found.setdefault(int(row.pop("point")), []).append(row)
    return found


def _header(part: Shard) -> list[str]:
    """The columns of metrics.csv; none before there is one."""
    path = part.folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return file.readline().rstrip("\n").split(",")


def _note(part: Shard, about: dict[str, Any]) -> None:
    run_folder.write_json(part.folder / "part.json", about)


def _save(part: Shard, step: Step, about: dict[str, Any]) -> None:
    """Writes a checkpoint, and only then that it is there."""
    states = step.states()
    points = sorted(states)
    whole = jax.tree.map(lambda *a: np.stack(a), *[states[p] for p in points])
    checkpoint.save(part.folder / "checkpoints", whole, step.finished, points=points)
    _note(part, about)


def _restored(folder: Path, family: Family, finished: int, live: Collection[int]) -> States:
    """The states of a checkpoint, of the points that go on."""
    points = checkpoint.points_of(folder, finished)
    whole, _ = checkpoint.restore(folder, family.first, finished, len(points))

    def of(place: int) -> State:
        return jax.tree.map(lambda a: np.asarray(a[place]), whole)

    return {p: of(place) for place, p in enumerate(points) if p in live}
