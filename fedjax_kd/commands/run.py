"""``fedjax-kd run``: one method, or several on the same data, cohorts and initial model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands import _options
from fedjax_kd.commands._announce import (
    announce_clock,
    announce_convolution,
    announce_data,
    announce_privacy,
)
from fedjax_kd.commands._parser import Section, flag, parse
from fedjax_kd.commands._training import Run, follow_run, train_run
from fedjax_kd.commands.partition import data_config
from fedjax_kd.data import Dataset
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine import processes
from fedjax_kd.errors import InputError
from fedjax_kd.options import named, options
from fedjax_kd.report import partition, plots, tables
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import lock, provenance, tensorboard
from fedjax_kd.runs.build import warned_build, with_model
from fedjax_kd.runs.clock_config import ClockConfig
from fedjax_kd.runs.comparison import write_comparison
from fedjax_kd.runs.config import Config, TrainingConfig
from fedjax_kd.runs.data_config import OptionValue, federation_of
from fedjax_kd.runs.fingerprint import Fingerprint, fingerprint
from fedjax_kd.runs.group_config import parse_client_options
from fedjax_kd.runs.interrupt import EXIT_CODE, asked_to_stop
from fedjax_kd.runs.option_files import with_files
from fedjax_kd.runs.privacy_config import PrivacyConfig, private_options
from fedjax_kd.runs.progress import show_progress, stderr
from fedjax_kd.runs.user_functions import located
from fedjax_kd.runs.warm_start import checkpoint_named
from fedjax_kd.runs.wrapper_config import parse_wrappers

COMMAND = "fedjax-kd run"  # as others see it who find its folder locked

DEMO = ("fedadam", "fedavg")
"""The methods that ``fedjax-kd run`` compares without a method."""

_TUNED: Mapping[str, OptionValue] = {
    "eta": 0.03,  # of FedAdam alone
    "tau": 1e-3,
    "client_lr": 0.3,
    "num_rounds": 200,
    "batch_size": 10,
    "min_partition_size": 2,
}
"""The defaults of that comparison where they differ from the signatures'."""

HELP = """Trains a federation, and writes a run folder.

Give a method (`fedjax-kd list` shows them), or several to compare them on the same clients, cohorts
and initial model. Without a method: FedAdam against FedAvg on scikit-learn's digits, 100 clients.

Examples:
  fedjax-kd run
  fedjax-kd run fedyogi --dataset cifar10 --data-dir DIR --partition dirichlet --alpha 0.1
      --num-clients 100 --cohort-size 10 --num-rounds 200 --seed 0
  fedjax-kd run fedavg fedprox scaffold --partition pathological --num-classes-per-partition 2
  fedjax-kd run scaffold --with top_k:keep=0.05 median

The options depend on the methods, the partition and the model: `fedjax-kd run fedprox --help`."""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    methods, rest = leading_methods(args)
    demo = not methods
    methods = methods or list(DEMO)
    prog = " ".join(["fedjax-kd run", *([] if demo else methods)])
    sections = _options.of_run(methods, rest, {"metrics": "--metric"})
    if demo:
        sections = [_options.with_defaults(section, _TUNED) for section in sections]
    found = parse(prog, HELP, [*sections, OUTPUT], rest)
    if found["output"]["distributed"]:
        processes.connect()
    configs = {m: config_of(m, found) for m in methods}
    return start_runs(configs, found["output"])


DISTRIBUTED = flag(
    "distributed",
    type=bool,
    default=False,
    help="train together with other processes, each started with this same command",
)

OUTPUT = Section(
    "output",
    "Where it goes, and what is shown meanwhile",
    [
        flag("out", help="run folder, new or empty (default: runs/DATE-TIME-METHOD-DATASET)"),
        flag(
            "checkpoint_every",
            type=int | None,
            help="rounds between two checkpoints, >= 1; by default at evaluations, every 10 s at "
            "most",
        ),
        flag("tensorboard", type=bool, default=False, help="also write scalars for TensorBoard"),
        flag("quiet", type=bool, default=False, help="show nothing but the result"),
        DISTRIBUTED,
    ],
)


def start_runs(configs: Mapping[str, Config], output: Mapping[str, Any]) -> int:
    """Trains new runs one after another; returns the exit code."""
    check_output(output)
    first = next(iter(configs.values()))
    dataset, federation = federation_of(first.data)
    quiet = output["quiet"] or not processes.is_first()
    announce_data(federation, quiet=quiet)
    announce_convolution(quiet=quiet)
    ready, edges = {}, {}
    for m, config in configs.items():
        suited = _with_budget(with_model(config, federation), federation.num_clients)
        simulation, edges[m] = warned_build(suited, federation)
        announce_clock(simulation, quiet=quiet)
        announce_privacy(suited, simulation, quiet=quiet)
        ready[m] = suited, simulation
    digests = provenance.agreed(fingerprint(federation))
    name = "-".join([*configs, federation.name.replace(":", "-").replace("/", "-")])

    def new_folder(stack: ExitStack) -> str:
        parent = run_folder.create(output["out"], name)
        stack.enter_context(lock.held([parent], COMMAND))
        run_folder.check_unused(parent)  # another process may have been faster
        folders = {_folder_of(m, parent, ready): config for m, (config, _) in ready.items()}
        write_runs(parent, folders, (digests, edges), stack)
        draw_split(parent, dataset, federation)
        return str(parent)

    with ExitStack() as stack:
        parent = Path(processes.by_first(partial(new_folder, stack)))
        kept = {k: output[k] for k in ("checkpoint_every", "tensorboard")}
        jobs = [Run(m, _folder_of(m, parent, ready), *ready[m], **kept) for m in ready]
        return finish_runs(parent, jobs, quiet=output["quiet"])


def _with_budget(config: Config, population: int) -> Config:
    """The configuration of a new run, with the noise that its privacy budget asks for."""
    training = config.training
    wrappers = private_options(
        config.privacy,
        config.wrappers,
        sampling=training.sampling,
        cohort_size=training.cohort_size,
        population=population,
        num_rounds=training.num_rounds,
    )
    return replace(config, wrappers=wrappers)


def write_runs(
    parent: Path,
    folders: Mapping[Path, Config],
    known: tuple[Fingerprint, Mapping[str, Sequence[str]]],
    stack: ExitStack,
) -> None:
    """Writes the configurations of new runs; those of a comparison first where all stand."""
    if parent not in folders:
        write_comparison(parent, {f.name: config for f, config in folders.items()})
        for folder in folders:
            folder.mkdir(exist_ok=True)
        stack.enter_context(lock.held(list(folders), COMMAND))
    for folder, config in folders.items():
        digests, edges = known
        run_folder.write_config(folder, config, digests, warnings=edges[config.method])


def draw_split(parent: Path, dataset: Dataset | None, federation: Federation) -> None:
    """Draws the split among clients, unless that was done or the clients are streamed."""
    path = parent / "partition.png"
    if dataset is not None and not path.exists():
        partition.draw_partition(dataset, federation.parts, path)


def _folder_of(method: str, parent: Path, methods: Sized) -> Path:
    """A method's run folder: its own in that of a comparison."""
    return parent / method if len(methods) > 1 else parent


def check_output(output: Mapping[str, Any]) -> None:
    """Raises ValueError if a run cannot be written as asked."""
    if output["tensorboard"]:
        tensorboard.require()


def finish_runs(parent: Path, jobs: Sequence[Run], *, quiet: bool) -> int:
    """Trains runs to their end, prints table and folder; returns the exit code."""
    rounds, first = {job.name: job.simulation.num_rounds for job in jobs}, processes.is_first()
    with (
        asked_to_stop() as asked,
        show_progress(rounds, quiet=quiet or not first) as show,
    ):

        def stop() -> bool:
            return processes.any_of(asked())

        train = partial(train_run, show=show) if first else follow_run
        interrupted = any(train(job, stop=stop) == "interrupted" for job in jobs)
    if not first:
        return EXIT_CODE if interrupted else 0
    done = [job.folder for job in jobs if run_folder.read_summary(job.folder)]
    if len(jobs) > 1:
        curves = [plots.Curve(folder.name, run_folder.read_rows(folder)) for folder in done]
        plots.curve(curves, parent / "curve.png")
    summaries = {f.name: run_folder.read_summary(f) for f in done}
    tables.show(tables.summaries(summaries))
    for name, summary in summaries.items() if not quiet else ():
        if "stopped" in summary:
            number, reason = summary["finished_rounds"], summary["stopped"]
            stderr().print(f"{name} stopped early, after round {number}: {reason}", markup=False)
    if interrupted:
        stderr().print(f"Interrupted; go on with: fedjax-kd resume {parent}", markup=False)
    print(parent)
    return EXIT_CODE if interrupted else 0


def leading_methods(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods, which come first, and the rest of the arguments."""
    count = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    methods = list(args[:count])
    for method in methods:
        named("method", method, REGISTRY)
    if len(set(methods)) < len(methods):
        raise InputError(f"A method is named twice in {' '.join(methods)}: name each once.")
    return methods, list(args[count:])


def config_of(method: str, found: Mapping[str, Any]) -> Config:
    """The configuration of one method from what was parsed."""
    given = dict(found["training"])
    given["metrics"] = tuple(map(located, given["metrics"]))
    given["loss"] = given["loss"] and located(given["loss"])
    if given["init_from"] is not None:
        given["init_from"] = checkpoint_named(given["init_from"])
    training = TrainingConfig(**given)
    model_options = dict(found["model"])
    models = {name: model_options.pop(name) for name in ("model", "models", "model_of")}
    config = Config(
        method=method,
        method_options=_options.chosen(found["method"], options(REGISTRY[method])),
        local=_options.chosen(found["local"], _options.of_local(method)),
        wrappers=parse_wrappers(found["wrappers"]["wrappers"]),
        data=data_config(found, training.seed),
        **models,
        model_options=model_options,
        training=training,
        clock=ClockConfig(**found["clock"]),
        privacy=PrivacyConfig(**found["privacy"]),
        client_options=parse_client_options(
            found["by_client"]["client_options"], _options.of_local(method)
        ),
    )
    return with_files(config)
