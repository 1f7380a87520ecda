"""Blocks of rounds on the device: one program, fed with who takes part and with what.

The next block's cohorts are drawn, and its examples read, by a background thread while the device
computes. Nothing inside a block waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fedjax_kd.core import State
from fedjax_kd.data.window import WindowSize
from fedjax_kd.engine import chunk_width, memory, processes
from fedjax_kd.engine.block_inputs import BlockInputs, draw_inputs, largest_window
from fedjax_kd.engine.debug import make_debug_round
from fedjax_kd.engine.evaluation import Evaluation, Pools, evaluation_of, pools_of
from fedjax_kd.engine.mesh import everywhere, replicate
from fedjax_kd.engine.packing import Packed, pack_leaves, unpack_leaves
from fedjax_kd.engine.prefetch import prefetched
from fedjax_kd.engine.round import Report, Resident, make_round
from fedjax_kd.engine.simulation import Simulation, with_chunks


class FinishedBlock(NamedTuple):
    """The result of one block of rounds."""

    simulation: Simulation  # with the chunks that were used
    state: State
    inputs: BlockInputs
    reports: Report  # leaves [R, ...]
    seen: Evaluation | None  # leaves [evaluations, ...], if evaluation ran inside
    compile_seconds: float
    seconds: float


BlockFn = Callable[..., tuple[State, tuple[Report, Evaluation | None]]]
"""(state, resident data, evaluation data, placements, first round) -> (state, results)"""


def run_blocks(s: Simulation, state: State, first: int) -> Iterator[FinishedBlock]:
    """Runs all blocks from round ``first`` on; each takes over the state of the one before."""
    size = largest_window(s, first)
    block, run = _first_block(s, state, first, size)
    yield block
    s, state = block.simulation, block.state
    del block  # its inputs, where examples are streamed, would be held during the whole run
    starts = range(first + s.block, s.num_rounds, s.block)
    with closing(prefetched(lambda start: draw_inputs(s, start, size), starts)) as inputs:
        for given in inputs:
            began = time.perf_counter()
            state, (reports, seen) = _finished(run, s, state, given)
            yield FinishedBlock(s, state, given, reports, seen, 0.0, time.perf_counter() - began)


def _first_block(
    s: Simulation, state: State, first: int, size: WindowSize | None
) -> tuple[FinishedBlock, BlockFn]:
    """The first block, in chunks that the device has memory for, and the program of all blocks."""

    def attempt(s: Simulation) -> tuple[FinishedBlock, BlockFn]:
        return _attempt(s, state, first, size)

    if s.engine == "python":  # nothing is compiled, and narrower chunks would save no memory
        return attempt(s)
    return memory.narrow_until_it_fits(
        attempt,
        s,
        lambda s: with_chunks(s, [chunk_width.narrower(chunks) for chunks in s.layout.chunks]),
        lanes=_widest,
        named="chunks of {} clients",
        hint=" Ask for that by `chunk` to save the attempt.",
    )


def _widest(s: Simulation) -> int:
    """Clients in the widest chunk of any group."""
    return max(map(max, s.chunk))


def _attempt(
    s: Simulation, state: State, first: int, size: WindowSize | None
) -> tuple[FinishedBlock, BlockFn]:
    """The first block in these chunks, and its program."""
    several = s.mesh is not None and s.mesh.is_multi_process
    compiled = _compiled_by_all if several else _compiled
    given, run, compile_seconds = compiled(s, state, first, size)
    began = time.perf_counter()
    try:
        # The block consumes its state, also where it then fails for lack of memory: the caller's
        # own is kept for another attempt. Later blocks need no copy, since by then it has fitted.
        copied = replicate(jax.tree.map(jnp.copy, state), s.mesh)
        after, (reports, seen) = _finished(run, s, copied, given)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not (several and memory.ran_out(error)):
            raise
        # The others are inside the program that failed here, and wait for this process's sums.
        raise memory.NoRetryError(
            f"The device has no memory for chunks of {_widest(s)} clients, and the other processes "
            f"are waiting for it: start again with a smaller `chunk`. ({error})"
        ) from error
    spent = time.perf_counter() - began
    return FinishedBlock(s, after, given, reports, seen, compile_seconds, spent), run


def _compiled_by_all(*args: Any) -> tuple[BlockInputs, BlockFn, float]:
    """`_compiled`, which fails in all processes if it does in one: they must run one program."""
    found = memory.if_it_fits(_compiled, *args)
    lacking = isinstance(found, memory.TooLargeError)
    if processes.any_of(lacking):
        raise found if lacking else memory.TooLargeError("another process has no memory for it")
    return found


def _compiled(
    s: Simulation, state: State, first: int, size: WindowSize | None
) -> tuple[BlockInputs, BlockFn, float]:
    """The first block's inputs, the program of all blocks, and the seconds that this one took."""
    given, began = draw_inputs(s, first, size), time.perf_counter()
    return given, _program(s, state, given), time.perf_counter() - began


def _finished(run: BlockFn, s: Simulation, state: State, given: BlockInputs) -> Any:
    """The results of a block, once the device has computed them."""
    return jax.block_until_ready(_run(run, s, state, given))


def _run(run: BlockFn, s: Simulation, state: State, given: BlockInputs) -> Any:
    """Starts a block; the result may not be there yet."""
    return run(*block_arguments(s, state, given))


def _program(s: Simulation, state: State, given: BlockInputs) -> BlockFn:
    """The program of one block of rounds, or its counterpart in plain Python."""
    if s.engine == "python":
        return _python_block(s)
    lowered = lower_block(s, *block_arguments(s, state, given))
    compiled = lowered.compile(compiler_options=s.backend.compiler_options)
    memory.check_fits(compiled)
    return compiled


def block_arguments(s: Simulation, state: State, given: BlockInputs) -> tuple[Any, ...]:
    """What a block of rounds is called with."""
    return state, given.resident, pools_of(s), given.placements, np.int32(given.start)


def lower_block(s: Simulation, *arguments: Any) -> jax.stages.Lowered:
    """A block of rounds, ready to be compiled for the devices on which its arguments lie.

    Args:
      s: the simulation.
      *arguments: as of `block_arguments`, or their shapes and shardings.
    """
    # A compiled program takes its state in one sharding only: a block must leave it in the one in
    # which the next block expects it. Donated, it is held once and not twice.
    program = jax.jit(block_of(s), donate_argnums=0, out_shardings=everywhere(s.mesh))
    return program.lower(*arguments)


def block_of(s: Simulation) -> BlockFn:
    """One block of rounds as a pure function, to be jitted.

    The algorithms and the seed of the simulation may be traced: then a block is a function of them.
    """
    limits = None if s.time is None else s.time.most_steps
    one_round = make_round(
        s.groups, s.layout, s.backend, sizes=s.sizes, most_steps=limits, mesh=s.mesh
    )
    key, evaluate = s.key("rounds"), evaluation_of(s) if s.block > s.eval_every else None

    def block(
        state: State, resident: Resident, pools: Pools, placements: Any, start: Array
    ) -> tuple[State, tuple[Report, Evaluation | None]]:
        def one(state: State, now: tuple[Array, Any]) -> tuple[State, Packed]:
            number, placements = now
            own_key = jax.random.fold_in(key, number)
            state, report = one_round(own_key, state, resident, placements, number)
            return state, pack_leaves(report)

        def several(state: State, now: Any) -> tuple[State, tuple[Report, Evaluation | None]]:
            state, reports = jax.lax.scan(one, state, now)
            return state, (
                unpack_leaves(reports),
                None if evaluate is None else evaluate(state, pools),
            )

        now = (start + jnp.arange(s.block, dtype=jnp.int32), placements)
        if evaluate is None:
            return several(state, now)
        # A scan over scans, and no condition in a single one: that would return an evaluation for
        # every round, most of them empty.
        now = jax.tree.map(lambda a: a.reshape(-1, s.eval_every, *a.shape[1:]), now)
        state, (reports, seen) = jax.lax.scan(several, state, now)
        return state, (jax.tree.map(lambda a: a.reshape(s.block, *a.shape[2:]), reports), seen)

    return block


def _python_block(s: Simulation) -> BlockFn:
    """The same block for the debug engine: a loop over rounds."""
    limits = None if s.time is None else s.time.most_steps
    one_round = make_debug_round(s.groups, s.layout, s.backend, limits)
    key, evaluate = s.key("rounds"), evaluation_of(s) if s.block > s.eval_every else None

    def block(state: State, resident: Resident, pools: Pools, placements: Any, start: Array) -> Any:
        reports, seen = [], []
        for i in range(s.block):
            number = jnp.int32(int(start) + i)
            places = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), placements)
            state, report = one_round(
                jax.random.fold_in(key, number), state, resident, places, number
            )
            reports.append(report)
            if evaluate is not None and (i + 1) % s.eval_every == 0:
                seen.append(evaluate(state, pools))
        return state, (_stacked(reports), _stacked(seen) if seen else None)

    return block


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
