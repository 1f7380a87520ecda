"""``fedjax-kd resume``: an interrupted run goes on, a finished one gets more rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedjax_kd import runs
from fedjax_kd.commands.parser import Section, flag, folders, parse
from fedjax_kd.commands.run import check_output, finish
from fedjax_kd.commands.training import Run
from fedjax_kd.config import Config, build, longer
from fedjax_kd.division import federation_of

HELP = """Goes on with a run from its last checkpoint, or from its beginning if there is none yet.

The numbers are those of a run that was never interrupted. With --num-rounds, a finished run gets
more rounds, or an interrupted one another end.

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
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    (parent,), rest = folders(args, "fedjax-kd resume", HELP, most=1)
    chosen = parse("fedjax-kd resume RUN", HELP, [_OUTPUT], rest)["output"]
    members = runs.members(parent)
    configs = {m: longer(runs.read_config(m), chosen["num_rounds"]) for m in members}
    waiting = [m for m in members if not _has_ended(m, configs[m])]
    if not waiting:
        rounds = configs[members[0]].training.num_rounds
        print(f"This run is finished, all {rounds} rounds; --num-rounds adds more.\n{parent}")
        return 0
    check_output(chosen)
    _, federation = federation_of(configs[waiting[0]].data)
    kept = {k: chosen[k] for k in ("checkpoint_every", "tensorboard")}
    jobs = []
    for folder in members:
        config = configs[folder]
        jobs.append(Run(config.method, folder, config, build(config, federation), **kept))
    for job in jobs:
        runs.write_config(job.folder, job.config)
    return finish(parent, jobs, quiet=chosen["quiet"])


def _has_ended(folder: Path, config: Config) -> bool:
    summary = runs.read_summary(folder)
    ended = summary.get("status") == "finished"
    finished, asked = summary.get("finished_rounds", 0), config.training.num_rounds
    if ended and asked < finished:
        raise ValueError(
            f"num_rounds is {asked}, but {folder} has finished {finished} rounds already: give a "
            "larger number, or start a new run."
        )
    return ended and finished == asked
