"""Training a federation: blocks of rounds on the device, everything else between the blocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array
from numpy.typing import NDArray

from fedjax_kd import cohort, evaluate, metrics
from fedjax_kd.core import Algorithm, Pool, State
from fedjax_kd.data.federation import Federation
from fedjax_kd.debug import make_debug_round
from fedjax_kd.engine import Report, Resident, make_round, replicate
from fedjax_kd.metrics import Tally
from fedjax_kd.simulation import Simulation, initial_state, simulate

Row = dict[str, float]
"""What is known of one round, by column name; evaluations fill further columns in some rounds."""

Seats = tuple[NDArray[np.int32], ...]


class Seconds(NamedTuple):
    """Where the time went; compilation is counted apart."""

    compile: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0


class Progress(NamedTuple):
    """A training after a block of rounds. ``state`` is valid until the next block begins."""

    state: State
    finished: int  # rounds
    rows: list[Row]  # of this block
    seconds: Seconds  # since the training was started or resumed


class Result(NamedTuple):
    """A finished training."""

    state: State
    history: list[Row]
    seconds: Seconds


class Pools(NamedTuple):
    """Every example that an evaluation may need."""

    train: Pool
    test: Pool
    client_test: Pool


class Evaluation(NamedTuple):
    """Tallies of the test set, and of each client's own test rows ``[C, ...]``."""

    test: Tally
    clients: Tally  # under the model of a newcomer
    personal: Tally | None  # under each client's own model, if it can differ


def train(
    algorithm: Algorithm | Sequence[Algorithm],
    federation: Federation,
    *,
    on_block: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Result:
    """Trains a federation from the first round to the last.

    Args:
      algorithm: from a factory such as `fedjax_kd.algorithms.fedavg`.
      federation: from `fedjax_kd.data.federate`.
      on_block: called after every block of rounds, for display or checkpoints.
      **options: see `fedjax_kd.simulation.simulate`; ``num_rounds`` is required.

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
    history: list[Row] = []
    for progress in blocks(simulation, initial_state(simulation)):
        history += progress.rows
        on_block(progress)
    return Result(progress.state, history, progress.seconds)


def blocks(simulation: Simulation, state: State, first: int = 0) -> Iterator[Progress]:
    """Trains from round ``first`` on, and yields after every block of rounds.

    The caller may stop at any block and go on later from its state and number of finished rounds:
    the result is the same, since every random draw depends on the seed and the round's number only.
    Before the first round a row numbered 0 with the evaluation of the initial model is yielded.
    """
    s = simulation
    # Every block donates its input: the caller's stays.
    state = replicate(jax.tree.map(jnp.array, state), s.mesh)
    resident = Resident(s.federation.train, s.federation.public)
    run, run_compile = _compiled(s, state, resident)
    look, look_compile = _timed(make_evaluation, s, state)
    seconds = Seconds(compile=run_compile + look_compile)
    if first == 0:
        seen, spent = _timed(look, state)
        seconds = seconds._replace(evaluate=spent)
        yield Progress(state, 0, [{"round": 0} | evaluation_row(seen)], seconds)
    for start in range(first, s.num_rounds, s.block):
        seats = _seats(s, start)
        (state, reports), spent = _timed(run, state, resident, seats, np.int32(start))
        seconds = seconds._replace(train=seconds.train + spent)
        finished = min(start + s.block, s.num_rounds)
        rows = _rows(s, start, finished, seats, jax.device_get(reports))
        if finished % s.eval_every == 0 or finished == s.num_rounds:
            seen, spent = _timed(look, state)
            seconds = seconds._replace(evaluate=seconds.evaluate + spent)
            rows[-1] |= evaluation_row(seen)
        yield Progress(state, finished, rows, seconds)


def make_evaluation(simulation: Simulation, state: State) -> Callable[[State], Evaluation]:
    """Compiles the evaluation of states like ``state`` on all test rows."""
    s, federation = simulation, simulation.federation
    key = s.key("evaluate")
    pools = Pools(federation.train, federation.test, federation.client_test)
    test_is_dealt = federation.client_test.x is federation.test.x
    x = jax.tree.map(lambda a: a[:2], federation.test.x)
    own_models = any(
        evaluate.has_personal_model(a, t.server, t.client, x)
        for a, t in zip(s.groups, s.types, strict=True)
    )

    def look(state: State, pools: Pools) -> Evaluation:
        predict = evaluate.shared_model(s.groups[0], key, state.server)
        rows = evaluate.tally_rows(predict, pools.test)
        if test_is_dealt:
            owned = jax.tree.map(lambda a: a[pools.client_test.rows], rows)
        else:
            owned = evaluate.tally_rows(predict, pools.client_test)
        personal = None
        if own_models:
            both = (pools.train, pools.client_test)
            personal = evaluate.evaluate_personal(s.groups, s.layout.members, key, state, both)
        return Evaluation(
            metrics.total(rows), evaluate.by_client(owned, pools.client_test), personal
        )

    # The pools are arguments: as constants they would become part of the program.
    program = jax.jit(look).lower(state, pools).compile()
    return lambda state: program(state, pools)


def evaluation_row(seen: Evaluation) -> Row:
    """The columns that an evaluation fills."""
    row = {f"test_{k}": v for k, v in metrics.summary(seen.test).items()}
    row |= {f"client_accuracy_{k}": v for k, v in metrics.over_clients(seen.clients).items()}
    if seen.personal is not None:
        spread = metrics.over_clients(seen.personal)
        row |= {f"personal_accuracy_{k}": v for k, v in spread.items()}
    return row


def _compiled(s: Simulation, state: State, resident: Resident) -> tuple[Callable, float]:
    """The program of one block of rounds, and the seconds that compiling it took."""
    key = s.key("rounds")
    if s.engine == "python":
        return _python_block(s), 0.0
    one_round = make_round(s.groups, s.layout, mesh=s.mesh)

    def block(state: State, resident: Resident, seats: Seats, start: Array) -> tuple[State, Report]:
        def step(state: State, now: tuple[Array, Seats]) -> tuple[State, Report]:
            number, seats = now
            return one_round(jax.random.fold_in(key, number), state, resident, seats, number)

        numbers = start + jnp.arange(s.block, dtype=jnp.int32)
        return jax.lax.scan(step, state, (numbers, seats))

    # The next block, compiled once, takes the state where this one leaves it.
    everywhere = None if s.mesh is None else NamedSharding(s.mesh, PartitionSpec())
    program = jax.jit(block, donate_argnums=0, out_shardings=everywhere)
    return _timed(program.lower(state, resident, _seats(s, 0), np.int32(0)).compile)


def _python_block(s: Simulation) -> Callable:
    """The same block for the debug engine: a loop over rounds."""
    one_round, key = make_debug_round(s.groups, s.layout), s.key("rounds")

    def block(state: State, resident: Resident, seats: Seats, start: Array) -> tuple[State, Report]:
        reports = []
        for i in range(s.block):
            number = jnp.int32(int(start) + i)
            places = [jnp.asarray(group[i]) for group in seats]
            state, report = one_round(
                jax.random.fold_in(key, number), state, resident, places, number
            )
            reports.append(report)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports)

    return block


def _timed(function: Callable, *args: Any) -> tuple[Any, float]:
    """The result of a call, complete on the device, and the seconds it took."""
    began = time.perf_counter()
    result = function(*args)
    jax.block_until_ready(jax.tree.leaves(result) if isinstance(result, tuple) else ())
    return result, time.perf_counter() - began


def _seats(s: Simulation, start: int) -> Seats:
    """Who takes part in the block that begins with round ``start``."""
    return cohort.schedule(
        s.sampler,
        s.layout,
        s.federation.sizes,
        seed=s.seed,
        first=start,
        rounds=s.block,
        last=s.num_rounds,
        dropout_rate=s.dropout_rate,
    )


def _rows(s: Simulation, start: int, finished: int, seats: Seats, reports: Report) -> list[Row]:
    """One row a round; rounds are counted from 1 in what users see."""
    rows = []
    for i in range(finished - start):
        asked = [int((group[i] < s.layout.population).sum()) for group in seats]
        down = sum(n * t.bytes_down for n, t in zip(asked, s.types, strict=True))
        sent = reports.used[i] + reports.rejected[i]
        up = sum(float(n) * t.bytes_up for n, t in zip(sent, s.types, strict=True))
        some = reports.used[i].any()
        rows.append(
            {
                "round": start + i + 1,
                "clients": float(reports.used[i].sum()),
                "rejected": float(reports.rejected[i].sum()),
                "bytes_down": down,
                "bytes_up": up,
                **{
                    f"train_{name}": float(v[i]) if some else math.nan
                    for name, v in reports.metrics.items()
                },
            }
        )
    return rows
