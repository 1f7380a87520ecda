"""Blocks of rounds on the device: one program, fed with who takes part and with what.

The next block's cohorts are drawn, and its examples read, by a background thread while the device
computes. Nothing inside a block waits for the host.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fedjax_kd import chunking, distributed, evaluate, memory, metrics
from fedjax_kd.core import Algorithm, Pool, State
from fedjax_kd.data.window import Capacity
from fedjax_kd.debug import make_debug_round
from fedjax_kd.engine import Report, Resident, everywhere, make_round, replicate
from fedjax_kd.feeding import Feed, feed, window_room
from fedjax_kd.metrics import ClassTally, Tally
from fedjax_kd.prefetch import prefetched
from fedjax_kd.simulation import Simulation, with_chunks


class Pools(NamedTuple):
    """Every example that an evaluation may need."""

    train: Pool
    test: Pool
    client_test: Pool | None


class Evaluation(NamedTuple):
    """Tallies of the test set, and of each client's own test rows ``[C, ...]``."""

    test: Tally  # of several groups the mean, weighed by their clients
    clients: Tally | None  # under the model of a newcomer; None if clients have no test rows
    personal: Tally | None  # under each client's own model, if it can differ
    groups: Tally | None  # of the test set, ``[G, ...]``; None if there is one group
    classes: ClassTally | None  # of the test set, leaves ``[L]``; None if not asked for


class Block(NamedTuple):
    """What came of one block of rounds."""

    simulation: Simulation  # with the chunks that were used
    state: State
    feed: Feed
    reports: Report  # leaves [R, ...]
    seen: Evaluation | None  # leaves [evaluations, ...], if evaluation ran inside
    compile_seconds: float
    seconds: float


BlockFn = Callable[..., tuple[State, tuple[Report, Evaluation | None]]]
"""(state, resident data, evaluation data, seatings, first round) -> (state, what came of it)"""


def dispatches(s: Simulation, state: State, first: int) -> Iterator[Block]:
    """Runs all blocks from round ``first`` on; each takes over the state of the one before."""
    room = window_room(s, first)
    block, run = _first_block(s, state, first, room)
    yield block
    s, state = block.simulation, block.state
    del block
    starts = range(first + s.block, s.num_rounds, s.block)
    with closing(prefetched(lambda start: feed(s, start, room), starts)) as feeds:
        for given in feeds:
            began = time.perf_counter()
            state, (reports, seen) = _finished(run, s, state, given)
            yield Block(s, state, given, reports, seen, 0.0, time.perf_counter() - began)


def _first_block(
    s: Simulation, state: State, first: int, room: Capacity | None
) -> tuple[Block, BlockFn]:
    """The first block, in chunks that the device has memory for; and its program, for the others.

    It works on a copy, since a program that fails may have taken its input with it.
    """
    several = s.mesh is not None and s.mesh.is_multi_process
    while True:
        given, began = feed(s, first, room), time.perf_counter()
        run = _if_it_fits(s, _compiled, s, state, given)
        lacking = isinstance(run, memory.TooLargeError)
        # Processes must run the same program.
        if distributed.any_of(lacking) if several else lacking:
            s = _narrower(s, run if lacking else "that is, another process has none")
            continue
        ready = time.perf_counter()
        copied = replicate(jax.tree.map(jnp.copy, state), s.mesh)
        came = _if_it_fits(s, _finished, run, s, copied, given)
        if not isinstance(came, memory.TooLargeError):
            after, (reports, seen) = came
            spent = time.perf_counter() - ready
            return Block(s, after, given, reports, seen, ready - began, spent), run
        if several:
            raise memory.TooLargeError(
                f"The device has no memory for chunks of {max(map(max, s.chunk))} clients, and the "
                f"other processes are waiting for it: start again with a smaller `chunk`. ({came})"
            )
        s = _narrower(s, came)


def _if_it_fits(s: Simulation, function: Callable[..., Any], *args: Any) -> Any:
    return function(*args) if s.engine == "python" else memory.if_it_fits(function, *args)


def _narrower(s: Simulation, lack: object) -> Simulation:
    """The simulation in chunks of half the width, after a warning."""
    if max(map(max, s.chunk)) == 1:
        raise memory.TooLargeError(
            "The device has no memory to train one client at a time: take a smaller model or "
            f"batch_size, or put fewer examples on the device. ({lack})"
        )
    narrow = with_chunks(s, [chunking.narrower(chunks) for chunks in s.layout.chunks])
    warnings.warn(
        f"The device has no memory for chunks of {max(map(max, s.chunk))} clients: going on with "
        f"{max(map(max, narrow.chunk))}. Ask for that by `chunk` to save the attempt.",
        stacklevel=2,
    )
    return narrow


def _finished(run: BlockFn, s: Simulation, state: State, given: Feed) -> Any:
    """What came of a block."""
    return jax.block_until_ready(_run(run, s, state, given))


def _run(run: BlockFn, s: Simulation, state: State, given: Feed) -> Any:
    """Starts a block; the result may not be there yet."""
    return run(state, given.resident, pools_of(s), given.seatings, np.int32(given.start))


def _compiled(s: Simulation, state: State, given: Feed) -> BlockFn:
    """The program of one block of rounds, or its counterpart in plain Python."""
    if s.engine == "python":
        return _python_block(s)
    # The next block, compiled once, takes the state where this one leaves it.
    program = jax.jit(block_of(s), donate_argnums=0, out_shardings=everywhere(s.mesh))
    lowered = program.lower(state, given.resident, pools_of(s), given.seatings, np.int32(0))
    compiled = lowered.compile()
    memory.check(compiled)
    return compiled


def block_of(s: Simulation) -> BlockFn:
    """One block of rounds as a pure function, to be jitted.

    The algorithms and the seed of the simulation may be traced: then a block is a function of them.
    """
    one_round, key = make_round(s.groups, s.layout, mesh=s.mesh), s.key("rounds")
    look = evaluation(s) if s.block > s.eval_every else None

    def block(
        state: State, resident: Resident, pools: Pools, seatings: Any, start: Array
    ) -> tuple[State, tuple[Report, Evaluation | None]]:
        def one(state: State, now: tuple[Array, Any]) -> tuple[State, Report]:
            number, seatings = now
            return one_round(jax.random.fold_in(key, number), state, resident, seatings, number)

        def several(state: State, now: Any) -> tuple[State, tuple[Report, Evaluation | None]]:
            state, reports = jax.lax.scan(one, state, now)
            return state, (reports, None if look is None else look(state, pools))

        now = (start + jnp.arange(s.block, dtype=jnp.int32), seatings)
        if look is None:
            return several(state, now)
        now = jax.tree.map(lambda a: a.reshape(-1, s.eval_every, *a.shape[1:]), now)
        state, (reports, seen) = jax.lax.scan(several, state, now)
        return state, (jax.tree.map(lambda a: a.reshape(s.block, *a.shape[2:]), reports), seen)

    return block


def _python_block(s: Simulation) -> BlockFn:
    """The same block for the debug engine: a loop over rounds."""
    one_round, key = make_debug_round(s.groups, s.layout), s.key("rounds")
    look = evaluation(s) if s.block > s.eval_every else None

    def block(state: State, resident: Resident, pools: Pools, seatings: Any, start: Array) -> Any:
        reports, seen = [], []
        for i in range(s.block):
            number = jnp.int32(int(start) + i)
            places = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), seatings)
            state, report = one_round(
                jax.random.fold_in(key, number), state, resident, places, number
            )
            reports.append(report)
            if look is not None and (i + 1) % s.eval_every == 0:
                seen.append(look(state, pools))
        return state, (_stacked(reports), _stacked(seen) if seen else None)

    return block


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pools_of(s: Simulation) -> Pools:
    """What an evaluation looks at."""
    return Pools(s.federation.train, s.federation.test, s.federation.client_test)


def make_evaluation(s: Simulation, state: State) -> Callable[[State], Evaluation]:
    """Compiles the evaluation of states like ``state`` on all test rows."""
    # The pools are arguments: as constants they would become part of the program.
    program = jax.jit(evaluation(s), out_shardings=everywhere(s.mesh))
    compiled = program.lower(state, pools_of(s)).compile()
    return lambda state: compiled(state, pools_of(s))


def evaluation(s: Simulation) -> Callable[[State, Pools], Evaluation]:
    """The evaluation of a state on all test rows, to be jitted."""
    federation, key = s.federation, s.key("evaluate")
    own = federation.client_test
    test_is_dealt = own is not None and own.x is federation.test.x
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), federation.test.x)
    own_models = own is not None and any(
        evaluate.has_personal_model(a, t.server, t.client, x)
        for a, t in zip(s.groups, s.types, strict=True)
    )

    def under(algorithm: Algorithm, state: State, pools: Pools) -> tuple[Any, Any, Any]:
        predict = evaluate.shared_model(algorithm, key, state.server)
        rows, theirs = evaluate.tally_rows(predict, pools.test), pools.client_test
        whole, classes = metrics.total(rows), None
        if s.per_class:
            classes = evaluate.by_class(rows, pools.test, federation.num_classes)
        if theirs is None:
            return whole, classes, None
        if test_is_dealt:
            owned = jax.tree.map(lambda a: a[theirs.rows], rows)
        else:
            owned = evaluate.tally_rows(predict, theirs)
        return whole, classes, evaluate.by_client(owned, theirs)

    def look(state: State, pools: Pools) -> Evaluation:
        members, theirs, personal = s.layout.members, pools.client_test, None
        test, classes, clients = zip(*(under(a, state, pools) for a in s.groups), strict=True)
        if own_models and theirs is not None:
            both = (pools.train, theirs)
            personal = evaluate.evaluate_personal(
                s.groups, members, key, state, both, at_once=list(map(max, s.chunk))
            )
        return Evaluation(
            evaluate.mean_of_groups(test, members),
            None if theirs is None else evaluate.each_of_its_group(clients, members),
            personal,
            _stacked(list(test)) if len(test) > 1 else None,
            evaluate.mean_of_groups(classes, members) if s.per_class else None,
        )

    return look
