"""How many clients are trained at once: chosen by measuring, or by rule where that does not pay.

A wide chunk shares the overhead of each operation among many clients; a narrow one stays in the
cache and wastes less on clients that have finished. What wins depends on model, shapes and device.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_kd.core import Algorithm, Pool, PyTree, Round
from fedjax_kd.engine import compile_cache, memory, schedule
from fedjax_kd.engine.clients import RoundInputs, run_cohort
from fedjax_kd.engine.schedule import Chunks, Placement
from fedjax_kd.engine.validation import Types, lowered_update

Costs = Mapping[int, float]
"""Width of a chunk -> what one local step of the whole chunk costs, in any unit."""

_LOG = logging.getLogger("fedjax_kd")

_MOST_WIDTHS = 3  # each of them is compiled
_GAIN = 0.03  # of the cost, that a further width must save
_WASTE, _PRICE = 1.15, 0.1  # share of computed steps to aim at, and what it may cost
# A tax on every lane of a chunk, in units of what a lane costs, and the gain that counts then.
_TAXES = ((0.0, _GAIN), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0))

# Runs of fewer operations than this take seconds, in which there is nothing to win by measuring;
# nor by compiling chunks of several widths.
_SHORT_RUN, _TINY_RUN = {"cpu": 1e13}, 1e11
_SHORT_ACCELERATED_RUN = 1e15

# 2 CPU cores, jax 0.10: 32 clients at once against one after another gave 1.24 times
# the examples/s at 1e6 operations a step (logistic regression), 1.05 at 2e7 (MLP 200-200) and 0.52
# at 3e8 (a small CNN); 64 clients of an MLP 64-64-10 took the time of 26.
_TINY_STEP, _SOME, _OVERHEAD = 1e7, 32, 1.5
_MANY, _LAUNCH = 256, 100.0  # no accelerator was measured: it is filled, and launches are dear

_STEPS, _REPEATS, _TURNS, _WIDEST = 3, 3, 16, 4096
_PROBE, _LARGEST_PROBE = 1e10, 1e12  # operations of one repeat: aimed at, and at most


class Workload(NamedTuple):
    """What the clients of one group do, and on what."""

    algorithm: Algorithm
    types: Types
    pool: Pool
    public: PyTree
    cohorts: Sequence[Sequence[float]]  # work of a device's clients in some rounds, descending
    rounds: int  # of the whole run

    @property
    def largest(self) -> int:
        """Clients of the largest cohort."""
        return max(map(len, self.cohorts), default=0)


def choose_chunks(load: Workload) -> Chunks:
    """The widths of chunks for a group of clients.

    Long runs are worth a measurement, which is remembered beside the compilation cache; others
    follow a rule.
    """
    program = lowered_update(load.algorithm, load.types, load.pool, load.public)
    flops = float((program.cost_analysis() or {}).get("flops", 0.0))
    steps = sum(map(sum, load.cohorts)) / max(len(load.cohorts), 1) * load.rounds
    short = _SHORT_RUN.get(jax.default_backend(), _SHORT_ACCELERATED_RUN)
    costs = assumed_costs(flops, load.largest)
    if flops * steps >= short and jax.process_count() == 1:  # processes must choose alike
        costs = (
            remembered_costs(_name(program.as_text(), load), partial(measure_costs, load, flops))
            or costs
        )
    return cheapest(costs, load.cohorts, most=1 if flops * steps < _TINY_RUN else _MOST_WIDTHS)


def cheapest(costs: Costs, cohorts: Sequence[Sequence[float]], most: int = _MOST_WIDTHS) -> Chunks:
    """The widths that seat cohorts at the least cost; each further one must save some of it.

    Where it costs next to nothing, less waste (local steps computed for clients that have finished)
    is preferred: it leaves the device to others.

    Args:
      costs: of a step at each width that may be chosen.
      cohorts: work of the clients of some rounds, descending.
      most: widths to choose.

    Example:
      >>> costs = {1: 2.0, 4: 5.0}
      >>> cheapest(costs, [[2, 2, 2, 2]]).widths, cheapest(costs, [[90, 2, 2, 2, 2]]).widths
      ((4,), (1, 4))
    """
    lane = min(cost / width for width, cost in costs.items())
    found = [
        _greedy({w: cost + tax * lane * w for w, cost in costs.items()}, cohorts, most, gain)
        for tax, gain in _TAXES
    ]
    truly = [_spent(chunks, costs, cohorts) for chunks in found]
    lanes = {width: float(width) for width in costs}
    for chunks, cost in zip(found, truly, strict=True):
        wasted = _spent(chunks, lanes, cohorts) / max(sum(map(sum, cohorts)), 1)
        if wasted <= _WASTE and cost <= (1 + _PRICE) * truly[0]:
            return chunks
    return found[0]


def _greedy(costs: Costs, cohorts: Sequence[Sequence[float]], most: int, gain: float) -> Chunks:
    """The best width, and one after another those that save most, if it is more than ``gain``."""

    def of(*widths: int) -> Chunks:
        return Chunks(tuple(sorted(widths)), tuple(costs[w] for w in sorted(widths)))

    best = min(map(of, costs), key=lambda chunks: _spent(chunks, costs, cohorts))
    while len(best.widths) < min(most, len(costs)):
        further = [of(*best.widths, width) for width in costs if width not in best.widths]
        candidate = min(further, key=lambda chunks: _spent(chunks, costs, cohorts))
        if _spent(candidate, costs, cohorts) >= (1 - gain) * _spent(best, costs, cohorts):
            break
        best = candidate
    return best


def _spent(chunks: Chunks, costs: Costs, cohorts: Sequence[Sequence[float]]) -> float:
    """What cohorts cost that are seated in these chunks, counted by other costs."""
    counted = chunks._replace(costs=tuple(costs[width] for width in chunks.widths))
    return sum(schedule.cost(w, counted, schedule.plan(w, chunks)) for w in cohorts)


def assumed_costs(flops: float, clients: int) -> Costs:
    """What a step costs by rule: an accelerator is filled, a CPU only by tiny steps.

    Args:
      flops: operations of one client's step.
      clients: of the largest cohort.
    """
    if jax.default_backend() != "cpu":
        widest, overhead = _MANY, _LAUNCH
    else:
        widest, overhead = (_SOME if flops < _TINY_STEP else 1), _OVERHEAD
    return {width: overhead + width for width in ladder(clients, widest)}


def ladder(clients: int, widest: int) -> list[int]:
    """Widths worth considering, ascending: powers of 2, and the fewest chunks of equal width.

    Example:
      >>> ladder(50, widest=32)
      [1, 2, 4, 8, 16, 25]
    """
    top = schedule.even_width(max(clients, 1), widest)
    return [w for w in (2**n for n in range(top.bit_length())) if w < top] + [top]


def requested_chunks(widths: Sequence[int], clients: int) -> Chunks:
    """The widths that somebody asked for, none wider than the largest cohort needs.

    Example:
      >>> requested_chunks([32], clients=50).widths
      (25,)
    """
    if len(widths) == 1 and widths[0] >= 1:
        widths = (schedule.even_width(max(clients, 1), widths[0]),)
    return Chunks(tuple(widths), tuple(_OVERHEAD + width for width in widths))


def narrower(chunks: Chunks) -> Chunks:
    """The same, at half the widest width.

    Example:
      >>> narrower(Chunks((1, 8), (2.0, 9.0)))
      Chunks(widths=(1, 4), costs=(2.0, 4.5))
    """
    widest = chunks.widths[-1]
    costs = dict(zip(chunks.widths[:-1], chunks.costs[:-1], strict=True))
    costs.setdefault(max(widest // 2, 1), chunks.costs[-1] / 2)
    return Chunks(tuple(sorted(costs)), tuple(costs[w] for w in sorted(costs)))


def measure_costs(load: Workload, flops: float) -> dict[int, float]:
    """Seconds of a local step at growing widths, until wider chunks stop to pay or to fit."""
    costs: dict[int, float] = {}
    sizes = _short_clients(load)
    work = float(np.max(np.asarray(load.algorithm.work(sizes, np.arange(len(sizes)), 0))))
    room, used = memory.free(), 0
    every = ladder(load.largest, _WIDEST)
    for width in [*every[:-1:2], every[-1]]:
        predicted = used * width / max(costs, default=1)
        if flops * work * width > _LARGEST_PROBE or (room is not None and predicted > room / 2):
            break
        try:
            turns = int(min(max(_PROBE / (max(flops, 1) * work * width), 1), _TURNS))
            seconds, used = _probe(load, sizes, width, turns)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            break
        costs[width] = seconds / work
        _LOG.info("chunks of %d clients: %.3g s a step", width, costs[width])
        if costs[width] / width > 1.1 * min(c / w for w, c in costs.items()):
            break
    # The cost of a width in between hardly differs from the line through its neighbours.
    known = sorted(costs)
    between = [w for w in every if known and w <= known[-1]]
    return {w: float(np.interp(w, known, [costs[k] for k in known])) for w in between}


def _short_clients(load: Workload) -> np.ndarray:
    """The sizes of the pool's clients, cut down so that each takes a few steps only."""
    sizes = np.asarray(load.pool.sizes, np.int64)
    some = np.arange(1, max(int(sizes.max()), 1) + 1)
    work = np.asarray(load.algorithm.work(some, np.zeros_like(some), 0), np.float64)
    return np.minimum(sizes, some[work <= max(_STEPS, work[0])][-1])


def _probe(load: Workload, sizes: np.ndarray, width: int, turns: int) -> tuple[float, int]:
    """Seconds that one chunk of the clients with most examples takes, and the bytes it needs.

    Several chunks run in turn, so that the start of the program does not count.
    """
    algorithm, pool = load.algorithm, load.pool._replace(sizes=jnp.asarray(sizes, jnp.int32))
    most = np.argsort(-sizes, kind="stable")
    slots = jnp.asarray(np.resize(most, width * turns), jnp.int32)
    key = jax.random.key(0)
    server = jax.jit(algorithm.server_init)(key)
    clients = jax.jit(jax.vmap(lambda k: algorithm.client_init(k, server)))(
        jax.random.split(key, width * turns)
    )

    def phase(server: PyTree, clients: PyTree, pool: Pool, public: PyTree, slots: jax.Array) -> Any:
        there = jnp.ones(width * turns, jnp.float32)
        round = Round(jnp.int32(0), slots, there, jnp.zeros_like(there), len(sizes), public)
        inputs = RoundInputs(key, server, pool, round)
        return run_cohort(
            algorithm, (width,), inputs, clients, Placement(slots, jnp.ones(1, jnp.int32))
        )

    arguments = (server, clients, pool, load.public, slots)
    program = jax.jit(phase).lower(*arguments).compile()
    spent = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        spent.append(time.perf_counter() - began)
    return min(spent) / turns, memory.needed(program)


def remembered_costs(name: str, measured: Callable[[], dict[int, float]]) -> dict[int, float]:
    """Costs measured before under that name, or measured now and remembered.

    They lie beside the compiled programs; nothing is kept where `compile_cache` keeps nothing.
    """
    folder = compile_cache.folder()
    file = None if folder is None else folder / "chunks" / f"{name}.json"
    if file is not None and file.is_file():
        try:
            return {int(width): float(c) for width, c in json.loads(file.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            _LOG.info("%s is damaged: it is measured anew", file)
    costs = measured()
    if file is not None and costs:
        _write(file, costs)
    return costs


def _write(file: Path, costs: Costs) -> None:
    """Whole or not at all; a folder that cannot be written to costs a measurement, not the run."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(f".{os.getpid()}")
        partial_file.write_text(json.dumps(costs))
        partial_file.replace(file)
    except OSError as error:
        _LOG.info("the measured widths cannot be kept: %s", error)


def _name(program: str, load: Workload) -> str:
    """One name for one model, shapes, cohort size, device and version of JAX."""
    device = jax.devices()[0]
    shapes = [str(a.shape) for a in jax.tree.leaves(load.pool)]
    about = [program, *shapes, load.largest, device.platform, device.device_kind, jax.__version__]
    return hashlib.sha256("\n".join(map(str, about)).encode()).hexdigest()[:32]
