"""Measuring systems side by side: each at its best settings, in alternating runs."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rivals import launch
from benchmarks.rivals.environments import Environment
from benchmarks.rivals.launch import Outcome
from benchmarks.rivals.workloads import Work

Report = dict[str, Any]
Settings = dict[str, Any]
Run = Callable[[str, Settings, float], Outcome]
"""(system, settings added to the workload's, seconds it may take) -> its result."""

PASSES = 2
_TRIAL_ROUNDS = 4  # at least, or a third of them
_PATIENCE = 2.0  # a trial that takes so many times as long as an earlier one is given up
_SLACK = 10.0  # seconds more, for imports


class Measurement(NamedTuple):
    """What is known of one system on one workload.

    Attributes:
      settings: the best ones.
      trials: seconds a round of every setting that was tried, None where it failed or was given up.
      reports: one a pass; see `runners.job.report`.
      problem: why there is no report; further lines hold the last ones that the system printed.
      fault: how its work differs from that of the others.
    """

    settings: Settings
    trials: list[tuple[Settings, float | None]]
    reports: list[Report]
    problem: str = ""
    fault: str = ""


class Figures(NamedTuple):
    """What the table shows: seconds a round after warm-up over all passes, and so on."""

    median: float
    fastest: float
    start: float  # seconds of imports, setup and compilation
    accuracy: float  # of the last model, the mean over passes


def candidates(system: str, work: Work, processes: Sequence[int]) -> list[Settings]:
    """The settings among which the best is looked for.

    Args:
      system: whose.
      work: PyTorch's convolutions may gain from another layout of the images.
      processes: numbers of pfl processes that share a machine or a GPU.
    """
    layouts: list[Settings] = [{}] if work.model == "mlp" else [{}, {"channels_last": True}]
    if system == "pfl":
        shared: list[Settings] = [{"threads": 1, "processes": n} for n in processes]
        return [a | b for a in [*shared, {"threads": 2}] for b in layouts]
    if system == "torch":
        return [{"threads": n} | layout for n in (1, 2) for layout in layouts]
    if system == "flower":
        return layouts
    if system == "fedjax":
        return [{"backend": "jit"}, {"backend": "pmap"}]
    return [{}]


def runner(environments: Mapping[str, Environment], arrays: Path, timeout: float) -> Run:
    """Runs systems on the workload whose arrays lie at ``arrays``."""

    def run(system: str, settings: Settings, limit: float) -> Outcome:
        environment = environments[system]
        if environment.python is None:
            return Outcome(None, f"not installed ({environment.reason})")
        say(f"  {system} {settings}")
        limit = min(limit, timeout)
        return launch.run(system, environment.python, arrays, settings=settings, timeout=limit)

    return run


def measure(
    run: Run, options: Mapping[str, Sequence[Settings]], rounds: int
) -> dict[str, Measurement]:
    """Looks for the best settings of each system, then runs all in turn, `PASSES` times.

    Systems alternate, so that whatever else the machine does meets all of them. One that failed is
    not run again.

    Args:
      run: runs a system.
      options: by system, the settings among which the best is looked for.
      rounds: of the workload; a trial takes no more.
    """
    found = {system: choose(run, system, tries, rounds) for system, tries in options.items()}
    for _ in range(PASSES):
        for system, so_far in found.items():
            if so_far.problem:
                continue
            outcome = run(system, so_far.settings, math.inf)
            reports = so_far.reports + ([outcome.report] if outcome.report else [])
            found[system] = so_far._replace(reports=reports, problem=outcome.problem)
    return found


def choose(run: Run, system: str, options: Sequence[Settings], rounds: int) -> Measurement:
    """A measurement without reports yet, with the settings that were fastest in a short trial."""
    if len(options) == 1:
        return Measurement(options[0], [], [])
    length = min(max(_TRIAL_ROUNDS, rounds // 3), rounds)
    trial = {"rounds": length, "eval_every": length, "test_rows": 100}
    trials: list[tuple[Settings, float | None]] = []
    problem, limit = "", math.inf
    for settings in options:
        began = time.perf_counter()
        outcome = run(system, settings | trial, limit)
        problem = problem or outcome.problem
        seconds = None
        if outcome.report is not None:
            seconds = median([outcome.report], warmup=1)
            limit = min(limit, _PATIENCE * (time.perf_counter() - began) + _SLACK)
        say("    given up" if seconds is None else f"    {seconds:.3g} s a round")
        trials.append((settings, seconds))
    known = [(seconds, i) for i, (_, seconds) in enumerate(trials) if seconds is not None]
    if not known:
        return Measurement({}, trials, [], problem)
    return Measurement(trials[min(known)[1]][0], trials, [])


def median(reports: Sequence[Report], warmup: int) -> float:
    """Seconds of the median round after the first ``warmup`` ones of each report."""
    return statistics.median(_rounds(reports, warmup))


def figures(measurement: Measurement, warmup: int) -> Figures:
    """The figures of the reports of a measurement."""
    reports = measurement.reports
    usual = median(reports, warmup)

    def start(report: Report) -> float:
        # Where a system compiles in its first rounds, these are so much longer.
        return report["setup_seconds"] + sum(report["round_seconds"][:warmup]) - warmup * usual

    return Figures(
        median=usual,
        fastest=min(_rounds(reports, warmup)),
        start=statistics.median(start(report) for report in reports),
        accuracy=statistics.fmean(report["curve"][-1][2] for report in reports),
    )


def _rounds(reports: Sequence[Report], warmup: int) -> list[float]:
    """Seconds of all rounds after warm-up."""
    return [s for report in reports for s in report["round_seconds"][warmup:]]


def say(line: str) -> None:
    """Tells whoever waits what is done now."""
    print(line, file=sys.stderr, flush=True)
