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
from fedjax_kd.engine.early_stopping import STOPPED_EARLY, patience_of
from fedjax_kd.errors import InputError
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import warned_build
from fedjax_kd.runs.config import Config, from_json, longer, to_json
from fedjax_kd.runs.data_config import federation_of
from fedjax_kd.sweeps import runner as sweep_runner

HELP = """Goes on with a run from its last checkpoint, or from its beginning if there is none yet.

The numbers are those of a run that was never interrupted. With --num-rounds, a finished run gets
more rounds, or an interrupted one another end; with --patience, a run that stopped early goes on. A
sweep goes on where it was; what is finished is not trained again.

Examples:
  fedjax-kd resume runs/20260101-120000-fedavg-digits
  fedjax-kd resume runs/20260101-120000-fedavg-digits --num-rounds 400"""

_OUTPUT = Section(
    "output",
    "What changes",
    [
        flag("num_rounds", type=int | None, help="rounds of the whole run, >= 1"),
        flag(
            "patience",
            type=int | None,
            help="evaluations without a better one, after which it stops; 0 for no such end",
        ),
        flag("checkpoint_every", type=int | None, help="rounds between two checkpoints, >= 1"),
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
    ends = chosen["num_rounds"], chosen["patience"]
    found = processes.by_first(lambda: _found(parent, *ends))
    configs = {Path(folder): from_json(values) for folder, values, _ in found}
    if all(ended for *_, ended in found):
        if processes.is_first():
            print(*map(_ending, configs), parent, sep="\n")
        return 0
    check_output(chosen)
    _, federation = federation_of(next(iter(configs.values())).data)
    announce_data(federation, quiet=chosen["quiet"] or not processes.is_first())
    kept = {k: chosen[k] for k in ("checkpoint_every", "tensorboard")}
    jobs = []
    for folder, config in configs.items():
        simulation, edges = warned_build(config, federation)
        jobs.append(Run(config.method, folder, config, simulation, **kept))
        if processes.is_first():
            run_folder.write_config(folder, config, edges)
    return finish_runs(parent, jobs, quiet=chosen["quiet"])


def _ending(folder: Path) -> str:
    """What is said of a run that has ended."""
    summary = run_folder.read_summary(folder)
    number = summary["finished_rounds"]
    if summary["status"] == STOPPED_EARLY:
        return (
            f"This run stopped early, after round {number}: {summary['stopped']}; --patience 0 "
            "goes on."
        )
    return f"This run is finished, all {number} rounds; --num-rounds adds more."


def _found(
    parent: Path, num_rounds: int | None, patience: int | None
) -> list[tuple[str, dict[str, Any], bool]]:
    """Folder and configuration of each run, and whether it has ended."""
    folders = run_folder.members(parent)
    configs = {m: longer(run_folder.read_config(m), num_rounds, patience) for m in folders}
    return [(str(m), to_json(config), _has_ended(m, config)) for m, config in configs.items()]


def _has_ended(folder: Path, config: Config) -> bool:
    summary = run_folder.read_summary(folder)
    ended = summary.get("status") in ("finished", STOPPED_EARLY)
    finished, asked = summary.get("finished_rounds", 0), config.training.num_rounds
    if ended and asked < finished:
        raise InputError(
            f"num_rounds is {asked}, but {folder} has finished {finished} rounds already: give a "
            "larger number, or start a new run."
        )
    waiting = patience_of(config.training.patience, config.training.min_delta)
    stopped = waiting is not None and waiting.after(run_folder.read_rows(folder)) is not None
    return ended and (finished == asked or stopped)
