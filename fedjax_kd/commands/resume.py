"""``fedjax-kd resume``: an interrupted run or sweep goes on, a finished run gets more rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_kd.commands import _sweeping
from fedjax_kd.commands._announce import announce_data
from fedjax_kd.commands._parser import Section, flag, folders, parse
from fedjax_kd.commands._training import Run
from fedjax_kd.commands.run import DISTRIBUTED, check_output, finish_runs
from fedjax_kd.engine import processes
from fedjax_kd.errors import InputError
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config, from_json, longer, to_json
from fedjax_kd.runs.data_config import federation_of
from fedjax_kd.sweeps import runner as sweep_runner

HELP = """Goes on with a run from its last checkpoint, or from its beginning if there is none yet.

The numbers are those of a run that was never interrupted. With --num-rounds, a finished run gets
more rounds, or an interrupted one another end. A sweep goes on where it was; what is finished is
not trained again.

Examples:
  fedjax-kd resume runs/20260101-120000-fedavg-digits
  fedjax-kd resume runs/20260101-120000-fedavg-digits --num-rounds 400"""

_OUTPUT = Section(
    "output",
    "What changes",
    [
        flag("num_rounds", type=int | None, help="rounds of the whole run"),
        flag("checkpoint_every", type=int | None, help="rounds between two checkpoints"),
        flag("tensorboard", type=bool, default=False, help="also write scalars for TensorBoard"),
        flag("quiet", type=bool, default=False, help="show nothing but the result"),
        DISTRIBUTED,
    ],
)

_OF_SWEEP = _sweeping.SWEEP_OUTPUT._replace(
    options=[option for option in _sweeping.SWEEP_OUTPUT.options if option.name != "out"]
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    (parent,), rest = folders(args, "fedjax-kd resume", HELP, most=1)
    if sweep_runner.is_sweep(parent):
        sweep = parse("fedjax-kd resume SWEEP", HELP, [_OF_SWEEP], rest)["output"]
        return _sweeping.continue_sweep(parent, sweep)
    chosen = parse("fedjax-kd resume RUN", HELP, [_OUTPUT], rest)["output"]
    if chosen["distributed"]:
        processes.connect()
    found = processes.by_first(lambda: _found(parent, chosen["num_rounds"]))
    configs = {Path(folder): from_json(values) for folder, values, _ in found}
    if all(ended for *_, ended in found):
        rounds = next(iter(configs.values())).training.num_rounds
        if processes.is_first():
            print(f"This run is finished, all {rounds} rounds; --num-rounds adds more.\n{parent}")
        return 0
    check_output(chosen)
    _, federation = federation_of(next(iter(configs.values())).data)
    announce_data(federation, quiet=chosen["quiet"] or not processes.is_first())
    kept = {k: chosen[k] for k in ("checkpoint_every", "tensorboard")}
    jobs = [
        Run(config.method, folder, config, build(config, federation), **kept)
        for folder, config in configs.items()
    ]
    for job in jobs if processes.is_first() else ():
        run_folder.write_config(job.folder, job.config)
    return finish_runs(parent, jobs, quiet=chosen["quiet"])


def _found(parent: Path, num_rounds: int | None) -> list[tuple[str, dict[str, Any], bool]]:
    """Folder and configuration of each run, and whether it has ended."""
    configs = {m: longer(run_folder.read_config(m), num_rounds) for m in run_folder.members(parent)}
    return [(str(m), to_json(config), _has_ended(m, config)) for m, config in configs.items()]


def _has_ended(folder: Path, config: Config) -> bool:
    summary = run_folder.read_summary(folder)
    ended = summary.get("status") == "finished"
    finished, asked = summary.get("finished_rounds", 0), config.training.num_rounds
    if ended and asked < finished:
        raise InputError(
            f"num_rounds is {asked}, but {folder} has finished {finished} rounds already: give a "
            "larger number, or start a new run."
        )
    return ended and finished == asked
