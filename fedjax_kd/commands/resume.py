"""``fedjax-kd resume``: an interrupted run or sweep goes on, a finished run gets more rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedjax_kd.commands import _sweeping
from fedjax_kd.commands._announce import announce_convolution, announce_data
from fedjax_kd.commands._options import CHANGED_DATA
from fedjax_kd.commands._parser import Section, flag, folders, parse
from fedjax_kd.commands._training import Run, last_checkpoint
from fedjax_kd.commands.run import DISTRIBUTED, check_output, draw_split, finish_runs
from fedjax_kd.engine import processes
from fedjax_kd.engine.early_stopping import STOPPED_EARLY, patience_of
from fedjax_kd.errors import InputError
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import lock, provenance
from fedjax_kd.runs.build import warned_build
from fedjax_kd.runs.comparison import configs_in, is_comparison, write_comparison
from fedjax_kd.runs.config import Config, from_json, longer, to_json
from fedjax_kd.runs.data_config import federation_of, source_of
from fedjax_kd.runs.fingerprint import Fingerprint, fingerprint
from fedjax_kd.sweeps import runner as sweep_runner

HELP = """Goes on with a run from its last checkpoint, or from its beginning if there is none yet.

The numbers are those of a run that was never interrupted. With --num-rounds, a finished run gets
more rounds, or an interrupted one another end; with --patience, a run that stopped early goes on. A
sweep goes on where it was; what is finished is not trained again. Data that have changed since are
refused; other versions and devices are named.

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
        CHANGED_DATA,
        DISTRIBUTED,
    ],
)

_OF_SWEEP = _sweeping.SWEEP_OUTPUT._replace(
    options=[*(o for o in _sweeping.SWEEP_OUTPUT.options if o.name != "out"), CHANGED_DATA]
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    (parent,), rest = folders(args, "fedjax-kd resume", HELP, most=1)
    if sweep_runner.is_sweep(parent):
        sweep = parse("fedjax-kd resume SWEEP", HELP, [_OF_SWEEP], rest)["output"]
        return _sweeping.resume_sweep(parent, sweep)
    chosen = parse("fedjax-kd resume RUN", HELP, [_OUTPUT], rest)["output"]
    if chosen["distributed"]:
        processes.connect()
    ends = chosen["num_rounds"], chosen["patience"]
    found = processes.by_first(lambda: _found(parent, *ends))
    if all(run["ended"] for run in found.values()) and _is_drawn(parent, found):
        if processes.is_first():
            print(*map(_ending, map(Path, found)), parent, sep="\n")
        return 0
    check_output(chosen)
    with ExitStack() as stack:
        found = processes.by_first(lambda: _locked(parent, ends, stack))
        configs = {Path(folder): from_json(run["config"]) for folder, run in found.items()}
        return _go_on(parent, configs, chosen)


def _go_on(parent: Path, configs: Mapping[Path, Config], chosen: Mapping[str, Any]) -> int:
    """Trains the rest of locked runs; returns the exit code."""
    data = next(iter(configs.values())).data
    dataset, federation = federation_of(data)
    digests = provenance.agreed(fingerprint(federation))
    processes.by_first(lambda: _check(configs, digests, chosen["changed_data"]))
    quiet = chosen["quiet"] or not processes.is_first()
    announce_data(federation, quiet=quiet)
    announce_convolution(quiet=quiet)
    kept = {k: chosen[k] for k in ("checkpoint_every", "tensorboard")}
    jobs, edges = [], []
    for folder, config in configs.items():
        simulation, known = warned_build(config, federation)
        jobs.append(Run(config.method, folder, config, simulation, **kept))
        edges.append(known)
    if processes.is_first():
        if is_comparison(parent):
            write_comparison(parent, {job.folder.name: job.config for job in jobs})
        _begin_stretch(jobs, edges, digests)
        draw_split(parent, dataset, federation)
    return finish_runs(parent, jobs, quiet=chosen["quiet"])


def _begin_stretch(
    jobs: Sequence[Run], edges: Sequence[Sequence[str]], digests: Fingerprint
) -> None:
    """Writes into the runs that go on with what they do, and says what is new."""
    pairs = zip(jobs, edges, strict=True)
    left = [(job, known) for job, known in pairs if not _has_ended(job.folder, job.config)]
    for job, _ in left[:1]:
        provenance.warn_of_versions(job.folder, run_folder.record_of(job.folder))
    for job, known in left:
        first = (last_checkpoint(job) or 0) + 1
        run_folder.write_config(job.folder, job.config, digests, first, known)


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


def _found(parent: Path, num_rounds: int | None, patience: int | None) -> dict[str, dict[str, Any]]:
    """The configuration of each run, by its folder, and whether it has ended."""
    configs = {m: longer(config, num_rounds, patience) for m, config in configs_in(parent).items()}
    return {
        str(m): {"config": to_json(config), "ended": _has_ended(m, config)}
        for m, config in configs.items()
    }


def _is_drawn(parent: Path, found: Mapping[str, Any]) -> bool:
    """Whether the picture of a comparison, which comes last, was drawn; other runs have none."""
    return str(parent) in found or (parent / "curve.png").is_file()


def _locked(
    parent: Path, ends: tuple[int | None, int | None], stack: ExitStack
) -> dict[str, dict[str, Any]]:
    """What `_found` finds in folders that are ours until the stack ends."""
    members = [m for m in configs_in(parent) if m != parent]
    for member in members:
        member.mkdir(exist_ok=True)
    stack.enter_context(lock.held([parent, *members], "fedjax-kd resume"))
    return _found(parent, *ends)  # another process may have trained them meanwhile


def _check(configs: Mapping[Path, Config], digests: Fingerprint, changed: bool) -> None:
    """Raises ValueError if runs were trained on other data, unless that is as good."""
    for folder, config in () if changed else configs.items():
        earlier = run_folder.record_of(folder).get("fingerprints", ())
        provenance.check_data(folder, earlier, digests, source_of(config.data))


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
