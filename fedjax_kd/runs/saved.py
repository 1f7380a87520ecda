"""A run read back from its folder: configuration, simulation and trained state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fedjax_kd.core import State
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError
from fedjax_kd.runs import checkpoint
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config


class SavedRun(NamedTuple):
    """A run at one of its checkpoints."""

    config: Config
    simulation: Simulation
    state: State  # ``state.server.model`` is the global model of FedAvg and most others
    finished: int  # rounds


def load_run(
    folder: str | Path, *, best: bool = False, federation: Federation | None = None
) -> SavedRun:
    """Reads a run: what ``fedjax-kd run`` trained, as it is after its newest checkpoint.

    Args:
      folder: of one run, which ``fedjax-kd run`` printed last; of a comparison, that of a method.
      best: whether to take the checkpoint of the best evaluation, which runs with ``--keep-best``
        have.
      federation: the clients that its configuration describes, if they are loaded already.

    Raises:
      ValueError: if it is no run folder, or has no such checkpoint.
      TypeError: if the checkpoint does not fit the configuration.
    """
    folder = Path(folder)
    config = run_folder.read_config(folder)
    if best and not checkpoint.finished_rounds(folder / run_folder.BEST_STATES):
        raise InputError(
            f"{folder} keeps no best checkpoint: train it with --keep-best, or take its newest one."
        )
    # The state is stored: where it once began need not be there any more.
    simulation = build(
        replace(config, training=replace(config.training, init_from=None)), federation
    )
    where = folder / (run_folder.BEST_STATES if best else "checkpoints")
    state, finished = checkpoint.restore(where, simulation)
    return SavedRun(config, simulation, state, finished)
