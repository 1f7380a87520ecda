"""Training a federation: blocks of rounds on the device, everything else between the blocks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fedjax_kd import metrics
from fedjax_kd.core import Algorithm, State, Wire
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.block_inputs import BlockInputs
from fedjax_kd.engine.blocks import run_blocks
from fedjax_kd.engine.early_stopping import Patience, Stop
from fedjax_kd.engine.evaluation import Evaluation, evaluation_of, make_evaluation, pools_of
from fedjax_kd.engine.mesh import replicate
from fedjax_kd.engine.round import Report
from fedjax_kd.engine.simulation import Simulation, simulate
from fedjax_kd.engine.validation import Types
from fedjax_kd.metrics import Tally
from fedjax_kd.metrics.metric import mean_known

Row = dict[str, float]
"""What is known of one round, by column name; evaluations fill further columns in some rounds."""

_CLASS = re.compile(r"class_\d+_accuracy")


class Seconds(NamedTuple):
    """Where the time went; compilation is counted apart."""

    compile: float = 0.0
    train: float = 0.0  # with the evaluations that ran inside a block
    evaluate: float = 0.0


class Progress(NamedTuple):
    """A training after a block of rounds. ``state`` is valid until the next block begins."""

    state: State
    finished: int  # rounds
    rows: list[Row]  # of this block
    seconds: Seconds  # since the training was started or resumed
    simulation: Simulation  # as it runs: with narrower chunks than asked for if memory ran out


class Result(NamedTuple):
    """A finished training."""

    state: State
    history: list[Row]
    seconds: Seconds
    stopped: Stop | None = None  # why it ended before its last round, if it did


def train(
    algorithm: Algorithm | Sequence[Algorithm],
    federation: Federation,
    *,
    on_block: Callable[[Progress], Any] = lambda progress: None,
    patience: int | Patience | None = None,
    **options: Any,
) -> Result:
    """Trains a federation from the first round to the last.

    Args:
      algorithm: from a factory such as `fedjax_kd.algorithms.fedavg`.
      federation: from `fedjax_kd.data.federate`.
      on_block: called after every block of rounds, for display or checkpoints. If it returns a
        `Stop`, the training ends there.
      patience: evaluations in a row without a better judged value, after which the training ends;
        with a least difference as `Patience`. It goes on to the last round if None.
      **options: see `fedjax_kd.engine.simulation.simulate`; ``num_rounds`` is required.

    Example:
      >>> import fedjax_kd as fk
      >>> federation = fk.federate(fk.load("digits"), fk.IidPartitioner(num_partitions=10))
      >>> build = fk.MODELS["logistic"](federation.input_shape, federation.num_classes)
      >>> task = fk.from_nnx(build, prepare=federation.prepare)
      >>> algorithm = fk.fedavg(task, fk.local_training(client_lr=0.1))
      >>> result = train(algorithm, federation, num_rounds=5, cohort_size=5)
      >>> result.history[-1]["test_accuracy"] > 0.7
      True
    """
    simulation = simulate(algorithm, federation, **options)
    waiting = Patience(patience) if isinstance(patience, int) else patience
    history: list[Row] = []
    stopped: Stop | None = None
    for progress in blocks(simulation, initial_state(simulation)):
        history += progress.rows
        asked = on_block(progress)
        if progress.finished == simulation.num_rounds:
            break
        stopped = asked if isinstance(asked, Stop) else None
        if stopped is None and waiting is not None:
            stopped = waiting.after(history)
        if stopped is not None:
            break
    return Result(progress.state, history, progress.seconds, stopped)


def blocks(simulation: Simulation, state: State, first: int = 0) -> Iterator[Progress]:
    """Trains from round ``first`` on, and yields after every block of rounds.

    The caller may stop at any block and go on later from its state and number of finished rounds:
    the result is the same, since every random draw depends on the seed and the round's number only.
    Before the first round a row numbered 0 with the evaluation of the initial model is yielded.

    Raises:
      TypeError: if the state is that of another method, model or number of clients.
    """
    s = simulation
    # Every block donates its input: the caller's stays.
    state = replicate(jax.tree.map(jnp.array, state), s.mesh)
    began = time.perf_counter()
    evaluate = make_evaluation(s, state)
    seconds = Seconds(compile=time.perf_counter() - began)
    if first == 0:
        row, spent = _timed_evaluation(evaluate, state, s)
        seconds = seconds._replace(evaluate=spent)
        yield Progress(state, 0, with_epsilon([{"round": 0} | row], s), seconds, s)
    for block in run_blocks(s, state, first) if first < s.num_rounds else ():
        state, s = block.state, block.simulation
        seconds = seconds._replace(
            compile=seconds.compile + block.compile_seconds, train=seconds.train + block.seconds
        )
        finished = min(block.inputs.start + s.block, s.num_rounds)
        rows = rows_of(s, block.inputs, *jax.device_get((block.reports, block.seen)))
        if evaluates_after(s, finished):
            row, spent = _timed_evaluation(evaluate, state, s)
            seconds = seconds._replace(evaluate=seconds.evaluate + spent)
            rows[-1] |= row
        yield Progress(state, finished, with_epsilon(rows, s), seconds, s)


def with_epsilon(rows: list[Row], s: Simulation) -> list[Row]:
    """Rows with the privacy that was spent before each evaluation, if it is accounted for."""
    judged = f"{metrics.JUDGED}{s.federation.problem.headline}"
    if s.accountant is None:
        return rows
    return [
        row | {"epsilon": s.accountant.epsilon(int(row["round"]))} if judged in row else row
        for row in rows
    ]


def _timed_evaluation(
    evaluate: Callable[[State], Evaluation], state: State, s: Simulation
) -> tuple[Row, float]:
    """The columns of an evaluation, and the seconds that it took."""
    began = time.perf_counter()
    seen = jax.device_get(evaluate(state))
    return evaluation_row(seen, s), time.perf_counter() - began


def evaluation_row(seen: Evaluation, s: Simulation) -> Row:
    """The columns that an evaluation fills.

    The last one, such as ``judged_accuracy``, is what a method is judged by: the headline metric of
    its problem, see `Simulation.judged_on`.
    """
    measures, headline = s.measures(s.groups[0]), s.federation.problem.headline
    row: Row = {}
    for prefix, sums in (("test", seen.test), ("validation", seen.validation)):
        if sums is not None:
            row |= {f"{prefix}_{k}": v for k, v in metrics.summary(measures, sums).items()}
    for prefix, sums in _over_clients(seen).items():
        if sums is not None:
            values = measures[headline].value(sums[headline])
            rising = measures[headline].larger_is_better
            spread = metrics.over_clients(values, larger_is_better=rising)
            row |= {f"{prefix}_{headline}_{k}": v for k, v in spread.items()}
    if seen.triggered is not None:
        name = "accuracy"
        row["attack_success"] = float(measures[name].value(seen.triggered[name]))
    row |= metrics.traits_over_clients(seen.traits)
    if seen.classes is not None:
        each = np.asarray(metrics.class_accuracy(seen.classes), np.float64)
        for tier, classes in s.tiers.items():
            row[f"{tier}_accuracy"] = float(mean_known(each[list(classes)]))
        if s.per_class:
            row |= {f"class_{label}_accuracy": a for label, a in enumerate(each.tolist())}
    for g in range(0 if seen.groups is None else len(s.groups)):
        of_group = metrics.summary(measures, jax.tree.map(lambda a, g=g: a[g], seen.groups))
        row |= {f"group_{g}_{k}": v for k, v in of_group.items()}
    row[f"{metrics.JUDGED}{headline}"] = row[s.judged_column]
    return row


def _over_clients(seen: Evaluation) -> dict[str, Tally | None]:
    """What an evaluation tells of each client, by the prefix of its columns."""
    return {"client": seen.clients, "personal": seen.personal, "finetuned": seen.finetuned}


def class_accuracies(rows: Sequence[Row]) -> NDArray[np.float64]:
    """The accuracy of each class at each evaluation, ``[R, L]``; empty without ``per_class``.

    Example:
      >>> class_accuracies([{"class_0_accuracy": 0.5, "class_1_accuracy": 1.0}]).tolist()
      [[0.5, 1.0]]
    """
    columns = [name for name in (rows[0] if rows else ()) if _CLASS.fullmatch(name)]
    return np.array([[row[name] for name in columns] for row in rows], np.float64)


def columns_of(s: Simulation) -> list[str]:
    """The columns that training and evaluation fill, found out without running them."""
    trained = [f"train_{name}" for name in sorted(s.types[0].upload.metrics)]
    seen = jax.eval_shape(lambda: evaluation_of(s)(initial_state(s), pools_of(s)))
    return [
        *s.facts,
        *trained,
        *evaluation_row(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), seen), s),
    ]


def rows_of(
    s: Simulation, given: BlockInputs, reports: Report, seen: Evaluation | None
) -> list[Row]:
    """One row a round of a block; rounds are counted from 1 in what users see.

    Args:
      s: the simulation.
      given: who took part.
      reports: leaves ``[R, ...]``, on the host.
      seen: the evaluations inside the block, leaves ``[evaluations, ...]``.
    """
    finished = min(given.start + s.block, s.num_rounds)
    rows = []
    for i in range(finished - given.start):
        sent = reports.used[i] + reports.rejected[i]
        wires = [jax.tree.map(lambda a, i=i: a[i], wire) for wire in reports.wire]
        some = bool(reports.used[i].any())
        told = {name: float(v[i]) if some else math.nan for name, v in reports.metrics.items()}
        rows.append(
            {
                "round": given.start + i + 1,
                "clients": float(reports.used[i].sum()),
                "rejected": float(reports.rejected[i].sum()),
                "bytes_down": _bytes(given.asked[i], given.unheard[i], "down", s.types, wires),
                "bytes_up": _bytes(sent, given.refused[i], "up", s.types, wires),
                "steps": given.work[i].needed,
                "steps_computed": given.work[i].computed,
                **given.cohorts[i].facts,
                **{f"train_{name}": value for name, value in told.items()},
            }
        )
    if seen is not None:
        for n, end in enumerate(range(s.eval_every, s.block + 1, s.eval_every)):
            # Rounds after the last are empty: the first evaluation after it is the last one.
            if end - s.eval_every < len(rows):
                row = evaluation_row(jax.tree.map(lambda a, n=n: a[n], seen), s)
                rows[min(end, len(rows)) - 1] |= row
    return rows


def _bytes(
    messages: Any,
    in_vain: Any,
    way: Literal["up", "down"],
    types: Sequence[Types],
    wires: Sequence[Wire],
) -> int:
    """Bytes of a round one way: what clients count themselves, else messages times their size.

    Messages in vain have the size that the others have on average.
    """
    total = 0.0
    for count, more, of_group, wire in zip(messages, in_vain, types, wires, strict=True):
        counted, size = getattr(wire, way), getattr(of_group, f"bytes_{way}")
        known = int(count) * size if counted is None else np.sum(counted, dtype=np.float64)
        total += known + int(more) * (known / int(count) if count else size)
    return round(total)


def evaluates_after(s: Simulation, finished: int) -> bool:
    """Whether this block, in which nothing was evaluated, ends in a round that has to be."""
    inside = s.block > s.eval_every
    return not inside and (finished % s.eval_every == 0 or finished == s.num_rounds)
