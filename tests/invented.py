"""Trainings and pictures that cost nothing, for tests of what becomes of their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from fedjax_kd.commands import _training, resume, run
from fedjax_kd.core import State
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.report import plots
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.config import Config, to_json
from fedjax_kd.train import Progress, Seconds, columns_of


def blocks(simulation: Simulation, state: State, first: int = 0) -> Iterator[Progress]:
    """A training whose numbers follow from the state that it goes on from."""
    names = [name for name in columns_of(simulation) if not name.startswith("train_")]
    for finished in range(first and first + 1, simulation.num_rounds + 1):
        if finished:
            state = jax.tree.map(lambda a, n=finished: a * 1.5 + n, state)
        size = float(sum(abs(leaf).mean() for leaf in jax.tree.leaves(state.server)))
        row = {"round": finished, **dict.fromkeys(names, size)}
        counts = dict.fromkeys(run_folder.COUNTS[1:], float(finished)) if finished else {}
        yield Progress(state, finished, [row | counts], Seconds(), simulation)


def draw(path: Path) -> None:
    if not path.exists():
        run_folder.replace(path, b"a picture")


def replace_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts them in the place of real ones; each simulation is built once."""
    made: dict[str, tuple[Simulation, list[str]]] = {}
    whole_build = run.warned_build

    def build(config: Config, federation: Federation) -> tuple[Simulation, list[str]]:
        name = repr(to_json(config))
        if name not in made:
            made[name] = whole_build(config, federation)
        return made[name]

    for module in (run, resume):
        monkeypatch.setattr(module, "warned_build", build)
        monkeypatch.setattr(module, "draw_split", lambda parent, *_: draw(parent / "split.png"))
    monkeypatch.setattr(_training, "blocks", blocks)
    monkeypatch.setattr(plots, "curve", lambda curves, path: draw(path))
