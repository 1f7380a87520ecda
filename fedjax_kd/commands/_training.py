"""One training in its run folder: rows, checkpoints, summary and pictures as it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_kd import metrics
from fedjax_kd.core import State
from fedjax_kd.engine import processes
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.early_stopping import STOPPED_EARLY, Patience, best_round, patience_of
from fedjax_kd.engine.schedule import Chunks
from fedjax_kd.engine.simulation import Simulation, with_chunks
from fedjax_kd.report import plots
from fedjax_kd.runs import checkpoint, provenance, tensorboard
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.pacer import Pacer
from fedjax_kd.runs.privacy_config import privacy_told
from fedjax_kd.runs.progress import Show, latest
from fedjax_kd.train import Progress, Row, Seconds, blocks, class_accuracies

_LEAST_SECONDS = 10.0  # between two checkpoints, unless their rounds are given


class Run(NamedTuple):
    """A training that is to be carried out."""

    name: str
    folder: Path
    config: Config
    simulation: Simulation
    checkpoint_every: int | None = None
    tensorboard: bool = False


def train_run(run: Run, show: Show, stop: Callable[[], bool]) -> str:
    """Trains from the last checkpoint, or from the beginning, to the end or until ``stop()``.

    Returns:
      The status: "finished", "stopped early" or "interrupted".
    """
    run, rows, state, finished = _beginning(run)
    run, state, finished = _as_first(run, state, finished)
    early = _stops_early(run, rows, finished)
    earlier = _seconds(run.folder) if finished else Seconds()
    total, stopping = earlier, False
    pacer = Pacer.starting(
        least_seconds=_LEAST_SECONDS, rounds=run.checkpoint_every, finished=finished
    )
    show(run.name, finished, {})
    with tensorboard.writer(run.folder, finished, enabled=run.tensorboard) as log:
        over = early or not _remains(run, finished)
        for progress in () if over else blocks(run.simulation, state, finished):
            run = run._replace(simulation=progress.simulation)
            new = _timed_rows(progress, rows, earlier)
            columns = _columns(run.simulation, rows or new)
            run_folder.append_rows(run.folder, columns, new)
            log(new)
            rows += new
            total = Seconds(*(a + b for a, b in zip(earlier, progress.seconds, strict=True)))
            show(run.name, progress.finished, latest(rows, total.train))
            if run.config.training.keep_best and best_round(rows) == progress.finished:
                _save(run, progress, run_folder.BEST_STATES)
            early = _stops_early(run, rows, progress.finished)
            stopping = not early and stop() and _remains(run, progress.finished)
            if stopping or early or _saves_after(run, pacer, progress.finished):
                pacer = pacer.after(progress.finished, partial(_save, run, progress))
                _summarise(run, rows, total, "running")
            if stopping or early:
                break
    status = STOPPED_EARLY if early else "interrupted" if stopping else "finished"
    plots.curve([plots.Curve(run.name, rows)], run.folder / "curve.png")
    _summarise(run, rows, total, status)  # the last file: a run is finished when it says so
    return status


def follow_run(run: Run, stop: Callable[[], bool]) -> str:
    """The part in `train_run` of every process but the first: it computes, and writes nothing.

    Returns:
      The status: "finished", "stopped early" or "interrupted".
    """
    run, state, finished = _as_first(run, initial_state(run.simulation), 0)
    early = _stops_early(run, [], finished)
    over = early or not _remains(run, finished)
    for progress in () if over else blocks(run.simulation, state, finished):
        early = _stops_early(run, [], progress.finished)
        if early:
            break
        if stop() and _remains(run, progress.finished):
            return "interrupted"
    return STOPPED_EARLY if early else "finished"


def _as_first(run: Run, state: State, finished: int) -> tuple[Run, State, int]:
    """Chunks, state and finished rounds of the first process, in all processes."""
    if jax.process_count() == 1:
        return run, state, finished
    begun, cut = processes.by_first(lambda: (finished, list(run.simulation.layout.chunks)))
    chunks = [Chunks(tuple(widths), tuple(costs)) for widths, costs in cut]
    run = run._replace(simulation=with_chunks(run.simulation, chunks))
    return run, processes.arrays_by_first(state) if begun else state, begun


def _stops_early(run: Run, rows: Sequence[Row], finished: int) -> bool:
    """Whether the run's patience is at its end, before its last round; the first process has rows.

    All processes ask in the same order.
    """
    patience = _patience(run)
    if patience is None:
        return False
    return processes.any_of(_remains(run, finished) and patience.after(rows) is not None)


def _patience(run: Run) -> Patience | None:
    return patience_of(run.config.training.patience, run.config.training.min_delta)


def _remains(run: Run, finished: int) -> bool:
    return finished < run.simulation.num_rounds


def _beginning(run: Run) -> tuple[Run, list[Row], State, int]:
    """The run, and rows, state and finished rounds to go on from; rows of lost rounds are dropped.

    It goes on in the chunks that it was cut into, or else sums would be rounded otherwise.
    """
    folder, finished = run.folder / "checkpoints", last_checkpoint(run)
    for each in (folder, run.folder / run_folder.BEST_STATES):
        checkpoint.drop(each, after=-1 if finished is None else finished)
    if finished is None:
        run_folder.truncate_rows(run.folder, None)
        return run, [], initial_state(run.simulation), 0
    if chunks := checkpoint.chunks_of(folder, finished):
        run = run._replace(simulation=with_chunks(run.simulation, chunks))
    state, finished = checkpoint.restore(folder, run.simulation, finished)
    return run, run_folder.truncate_rows(run.folder, finished), state, finished


def last_checkpoint(run: Run) -> int | None:
    """The finished rounds from which a run goes on; None if it begins anew."""
    known = checkpoint.finished_rounds(run.folder / "checkpoints")
    return max((n for n in known if _usable(run, n)), default=None)


def _usable(run: Run, finished: int) -> bool:
    """Whether a longer run passes through this checkpoint: its last round, too, must be evaluated
    exactly if it is a multiple of ``eval_every``.
    """
    before = run_folder.read_summary(run.folder).get("num_rounds", run.simulation.num_rounds)
    was_end = finished == before < run.simulation.num_rounds
    return not was_end or finished % run.simulation.eval_every == 0


def _saves_after(run: Run, pacer: Pacer, finished: int) -> bool:
    """Whether there is to be a checkpoint after so many rounds."""
    s = run.simulation
    last_evaluation = s.num_rounds // s.eval_every * s.eval_every
    if finished in (s.num_rounds, last_evaluation):  # the latter for those who add rounds later
        return finished > 0
    evaluated = finished % s.eval_every == 0  # where the seconds decide, only at evaluations
    return pacer.is_due(finished) and (evaluated or run.checkpoint_every is not None)


def _save(run: Run, progress: Progress, folder: str = "checkpoints") -> None:
    chunks = progress.simulation.layout.chunks
    checkpoint.save(run.folder / folder, progress.state, progress.finished, chunks)


def _timed_rows(progress: Progress, rows: Sequence[Row], earlier: Seconds) -> list[Row]:
    """The rows of a block; its rounds are one dispatch, so each gets an equal share of the time."""
    end = earlier.train + progress.seconds.train
    start = rows[-1]["seconds"] if rows else 0.0
    count = len(progress.rows)
    return [
        row | {"seconds": start + (end - start) * (i + 1) / count}
        for i, row in enumerate(progress.rows)
    ]


def _columns(simulation: Simulation, rows: Sequence[Row]) -> list[str]:
    """The columns of metrics.csv, known since the evaluation of the initial model."""
    trained = [f"train_{name}" for name in sorted(simulation.types[0].upload.metrics)]
    evaluated = [name for name in rows[0] if name not in ("round", "seconds")]
    return [*run_folder.COUNTS, *simulation.facts, *trained, *evaluated, "seconds"]


def _seconds(folder: Path) -> Seconds:
    """What earlier parts of this run have spent, as far as it is known."""
    return Seconds(**run_folder.read_summary(folder).get("seconds", {}))


def _summarise(run: Run, rows: Sequence[Row], seconds: Seconds, status: str) -> None:
    trained = [row for row in rows if row["round"] > 0]
    updates = sum(row["clients"] for row in trained)
    summary: dict[str, Any] = {
        "status": status,
        **_reason(run, rows, status),
        "method": run.config.method,
        "finished_rounds": int(rows[-1]["round"]),
        "num_rounds": run.simulation.num_rounds,
        "judged_by": run.simulation.judged_by,
        "judged_on": run.simulation.judged_on,
        **_quality(rows, run.simulation),
        "bytes_down": int(sum(row["bytes_down"] for row in trained)),
        "bytes_up": int(sum(row["bytes_up"] for row in trained)),
        "rejected": int(sum(row["rejected"] for row in trained)),
        **({} if run.simulation.time is None else _time(trained)),
        **_privacy(run, int(rows[-1]["round"])),
        **provenance.convolution(),
        "chunk": run.simulation.chunk,
        "waste": _waste(trained),
        "rounds_per_second": len(trained) / seconds.train if seconds.train else None,
        "client_updates_per_second": updates / seconds.train if seconds.train else None,
    }
    finite = {k: None if _is_nan(v) else v for k, v in summary.items()}
    run_folder.write_json(run.folder / "summary.json", finite | {"seconds": seconds._asdict()})


def _time(trained: Sequence[Row]) -> dict[str, float]:
    """The simulated seconds of a run."""
    return {"simulated_seconds": trained[-1]["simulated_seconds"] if trained else 0.0}


def _privacy(run: Run, rounds: int) -> dict[str, Any]:
    """What a run has spent of its clients' privacy, and how that is meant."""
    accountant = run.simulation.accountant
    if accountant is None:
        return {}
    return {"privacy": privacy_told(accountant, run.config.privacy, rounds)}


def _reason(run: Run, rows: Sequence[Row], status: str) -> dict[str, str]:
    """Why a run stopped early, if it did."""
    patience = _patience(run) if status == STOPPED_EARLY else None
    stopped = patience and patience.after(rows)
    return {"stopped": stopped.reason} if stopped else {}


def _quality(rows: Sequence[Row], s: Simulation) -> dict[str, float]:
    """The final and the best evaluation, by what the method is judged by."""
    evaluated = [row for row in rows if "test_loss" in row]
    classes = class_accuracies(evaluated)
    forgotten = None
    if classes.size and len(classes) > 1:
        forgotten = float(metrics.forgetting(jnp.asarray(classes, jnp.float32)))
    last, judged = evaluated[-1], f"{metrics.JUDGED}{s.federation.problem.headline}"
    told = [f"test_{s.federation.problem.headline}", "test_loss", s.judged_column]
    told += _before_and_after(last, s.federation.problem.headline)
    told += [f"{tier}_accuracy" for tier in s.tiers]
    told += ["attack_success"] if "attack_success" in last else []
    number = best_round(evaluated)
    best = next((row for row in evaluated if row["round"] == number), evaluated[0])
    return {
        **{f"final_{name}": last[name] for name in dict.fromkeys(told)},
        f"best_{s.judged_column}": best[judged],
        "best_round": int(best["round"]),
        **({} if forgotten is None else {"final_forgetting": forgotten}),
    }


def _before_and_after(row: Row, headline: str) -> list[str]:
    """The columns of clients' models before and after steps of their own, if these were taken."""
    before, own, after = (f"{of}_{headline}_mean" for of in ("client", "personal", "finetuned"))
    return [own if own in row else before, after] if after in row else []


def _waste(rows: Sequence[Row]) -> float | None:
    """Local steps that were computed, over those that the clients needed."""
    needed = sum(row["steps"] for row in rows)
    return sum(row["steps_computed"] for row in rows) / needed if needed else None


def _is_nan(value: Any) -> bool:
    """JSON knows neither NaN nor infinity."""
    return isinstance(value, float) and not math.isfinite(value)
