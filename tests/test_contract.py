"""What holds for every method of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, CPU, federation, gap, in_round, play, public, rounds, start
from method_records import RECORDS, limit_is_numeric
from methods import FIT, OF_A_KIND, each_method, make, model, numeric, takes_fit

from fedjax_kd import batching, tree
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Algorithm, Pool, State, Variables
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.round import Report, Resident, RoundFn, make_round
from fedjax_kd.engine.schedule import Placement, lay_out
from fedjax_kd.engine.validation import check_algorithm, check_same_type
from fedjax_kd.local import local_training
from fedjax_kd.options import fixed_local

PLACES = len(COHORTS[0]) + 1  # so that one is always empty
LIMIT = "the limit"  # a lane of the sweep beside those named after options
ROUNDING = 1e-5  # sums over clients in another order, after three rounds

# Of local training: what leaves the default as it is, where an option has no default number.
NEUTRAL = {"client_momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1e6, "lr_end": 1.0}
OTHER = {"lr_decay": 0.5, "client_momentum": 0.5, "clip_norm": 0.1}


@pytest.fixture(scope="module", autouse=True)
def short_shuffle() -> Iterator[None]:
    """Any number of turns is a permutation; the debug engine takes them one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "_SHUFFLE_ROUNDS", 3)
        yield


def build(name: str, fit: Mapping[str, Any] = FIT, **given: Any) -> Algorithm:
    """A method on the smallest task that suits it."""
    known = RECORDS[name]
    return make(name, known.task(), local_training(**fit), **known.options | given)


# Summed and stacked messages, state of clients, groups, branches: the other methods are thorough.
PLACED = {"scaffold", "feddf", "fedrep", "pfedhn", "ccvr"}
METHODS = each_method(list(REGISTRY), thorough=OF_A_KIND)


def one_round(algorithm: Algorithm) -> RoundFn:
    """The round of small cohorts in one chunk, to be compiled by the caller."""
    clients = federation().num_clients
    chunks = [requested_chunks(CPU, (PLACES,), PLACES)]
    layout = lay_out([range(clients)], clients, PLACES, chunks, work=[algorithm.work])
    return make_round([algorithm], layout, CPU)


def slots() -> tuple[Placement]:
    """Three clients and an empty place."""
    return one_chunk([4, 0, 2, federation().num_clients])


def one_chunk(ids: Sequence[int]) -> tuple[Placement]:
    """A cohort in one chunk, in the order given."""
    return (Placement(jnp.array(ids, jnp.int32), jnp.ones(1, jnp.int32)),)


@cache
def counted(name: str) -> tuple[RoundFn, list[int]]:
    """The compiled round of small cohorts, and a list that grows when it is traced."""
    algorithm, traces = build(name), []

    def client_update(*args: Any) -> Any:
        traces.append(1)
        return algorithm.client_update(*args)

    return jax.jit(one_round(algorithm._replace(client_update=client_update))), traces


def plain(
    name: str, cohorts: Sequence[Sequence[int]] = COHORTS, pool: Pool | None = None
) -> list[tuple[State, Report]]:
    """State and report of each round, all clients of a cohort at once; compiled once a method."""
    pool = federation().train if pool is None else pool
    how = {"public": public(), "places": PLACES, "run": counted(name)[0]}
    return list(rounds(build(name), pool, cohorts, **how))


def poisoned(pool: Pool, client: int) -> Pool:
    """The same data, but the client's inputs are NaN."""
    data = pool.of(jnp.int32(client))
    rows = pool.rows[int(data.start) : int(data.start) + int(data.size)]
    return pool._replace(x=pool.x.at[rows].set(jnp.nan))


@METHODS
def test_traced_once_and_types_stable(name: str):
    before = plain(name, COHORTS[:1])
    traces = len(counted(name)[1])
    after = plain(name)
    assert len(counted(name)[1]) == traces > 0
    initial = start([build(name)], np.zeros(federation().num_clients))
    check_same_type(initial, before[-1][0], "a round must keep the types")
    check_same_type(initial, after[-1][0], "a round must keep the types")
    assert gap(initial, after[-1][0]) > 0


@each_method(list(REGISTRY), thorough=set(REGISTRY) - PLACED)
def test_chunks_and_devices_change_nothing(name: str):
    engines_agree(name, COHORTS, chunk=1, mesh=make_mesh(2))


@each_method(list(REGISTRY), thorough=set(REGISTRY) - {"scaffold"})
def test_the_debug_engine_agrees(name: str):
    engines_agree(name, COHORTS[:1], debug=True)


def summed(report: Report) -> Report:
    """A report whose bytes are those of the round: how clients are placed is the engine's."""
    return report._replace(wire=jax.tree.map(jnp.sum, report.wire))


def engines_agree(name: str, cohorts: Sequence[Sequence[int]], **how: Any) -> None:
    """Compares rounds run in another way with those of a cohort at once."""
    played = plain(name, cohorts)
    state, reports = play(build(name), federation().train, cohorts, public=public(), **how)
    assert gap(state, played[-1][0]) < ROUNDING
    assert gap(list(map(summed, reports)), [summed(report) for _, report in played]) < ROUNDING


@METHODS
def test_order_of_a_cohort_is_irrelevant(name: str):
    run, _ = counted(name)
    state = start([build(name)], np.zeros(federation().num_clients))
    resident, key = Resident(federation().train, public()), jax.random.key(2)
    (one, report), (other, its_report) = (
        run(key, state, resident, one_chunk(ids), jnp.int32(0))
        for ids in ([4, 0, 6, 3], [6, 3, 4, 0])
    )
    assert gap(one, other) < ROUNDING
    assert gap(summed(report), summed(its_report)) < ROUNDING


@METHODS
def test_clients_outside_the_cohort_stay_bitwise(name: str):
    before = start([build(name)], np.zeros(federation().num_clients))
    for (after, _), cohort in zip(plain(name), COHORTS, strict=True):
        absent = np.setdiff1d(np.arange(federation().num_clients), cohort)
        old, new = (jax.tree.map(lambda a, ids=absent: a[ids], s.clients) for s in (before, after))
        chex.assert_trees_all_equal(old, new)
        before = after


@each_method(list(REGISTRY))
def test_declared_bytes(name: str):
    algorithm = build(name)
    types = check_algorithm(algorithm, federation().train, public())
    declared = (types.bytes_down, types.bytes_up, tree.num_bytes(types.client))
    assert declared == RECORDS[name].bytes
    message = algorithm.broadcast(
        algorithm.server_init(jax.random.key(0)), jnp.int32(0), in_round()
    )
    check_same_type(types.message, message, "what is sent must be what was declared")


def values_of(name: str) -> dict[str, float]:
    """The numbers of a method and of its local training, none of them left to a default."""
    known, method = RECORDS[name], numeric(REGISTRY[name])
    method |= {o: v for o, v in known.options.items() if o in method}
    local = numeric(local_training) | {"client_lr": FIT["client_lr"]} if takes_fit(name) else {}
    local = {o: v for o, v in local.items() if o not in fixed_local(REGISTRY[name])}
    neutral = NEUTRAL | known.neutral
    return {o: neutral[o] if v is None else v for o, v in (method | local).items()}


def some_rounds(name: str, values: Mapping[str, Any]) -> State:
    """The state after rounds with the same cohort, for numbers that may be traced."""
    local = numeric(local_training) if takes_fit(name) else {}
    fit = FIT | {o: v for o, v in values.items() if o in local}
    algorithm = build(name, fit, **{o: v for o, v in values.items() if o not in local})
    run, resident = one_round(algorithm), Resident(federation().train, public())

    def step(state: State, number: jax.Array) -> tuple[State, None]:
        return run(jax.random.key(2), state, resident, slots(), number)[0], None

    initial = start([algorithm], np.zeros(federation().num_clients))
    numbers = jnp.arange(RECORDS[name].rounds, dtype=jnp.int32)
    return jax.lax.scan(step, initial, numbers)[0]


@cache
def sweep(name: str) -> dict[str | None, State]:
    """Rounds in one program: as they are (None), with each number changed, at the limit."""
    values, vary = values_of(name), OTHER | RECORDS[name].vary
    settings = {None: values}
    settings |= {o: values | {o: vary.get(o, 0.7 * v + 0.01)} for o, v in values.items()}
    if limit_is_numeric(name):
        settings[LIMIT] = values | dict(RECORDS[name].limit.options)
    stacked = jax.tree.map(lambda *n: jnp.array(n, jnp.float32), *settings.values())
    swept = jax.jit(jax.vmap(partial(some_rounds, name)))(stacked)
    return {
        changed: jax.tree.map(lambda a, lane=lane: a[lane], swept)
        for lane, changed in enumerate(settings)
    }


def one_by_one(run: RoundFn, state: State, count: int = 3) -> State:
    """The same rounds, each of them a call."""
    key, resident = jax.random.key(2), Resident(federation().train, public())
    for number in range(count):
        state, _ = run(key, state, resident, slots(), jnp.int32(number))
    return state


@METHODS
def test_numeric_options_are_traceable(name: str):
    initial = start([build(name)], np.zeros(federation().num_clients))
    expected = one_by_one(counted(name)[0], initial, RECORDS[name].rounds)
    unchanged = {None, *RECORDS[name].evaluated}
    for changed, state in sweep(name).items():
        if changed != LIMIT:
            assert (gap(state, expected) < ROUNDING) == (changed in unchanged), changed


@cache
def fedavg_beside(task: Any, equals: Any) -> Variables:
    """The model of the FedAvg that methods equal at their limit, after the same three rounds."""
    algorithm = equals(task(), local_training(**FIT))
    initial = start([algorithm], np.zeros(federation().num_clients))
    return model(one_by_one(jax.jit(one_round(algorithm)), initial))


@each_method([n for n in REGISTRY if limit_is_numeric(n)], thorough=OF_A_KIND)
def test_among_traced_numbers_the_limit_is_fedavg(name: str):
    known = RECORDS[name]
    expected = fedavg_beside(known.task, known.limit.equals)
    assert gap(model(sweep(name)[LIMIT]), expected) < ROUNDING


@METHODS
def test_clients_without_examples_count_for_nothing(name: str):
    (state, report), *_ = plain(name, [(1, 5, 3)])
    (expected, _), *_ = plain(name, [(5, 3)])
    assert gap(state, expected) == 0
    assert float(report.used.sum()) == 2
    assert float(report.rejected.sum()) == 0
    (state, report), *_ = plain(name, [(2,)])
    assert float(report.used.sum()) == 1, "one example is enough"
    assert bool(tree.is_finite(state))


@METHODS
def test_updates_that_are_not_finite_are_left_out(name: str):
    pool = federation().train
    (state, report), *_ = plain(name, [(0, 4, 2)], poisoned(pool, 4))
    (expected, clean), *_ = plain(name, [(0, 2)])
    assert float(report.rejected.sum()) == 1
    assert float(report.used.sum()) == 2
    assert gap(state, expected) == 0
    assert gap(report.metrics, clean.metrics) == 0


@METHODS
@pytest.mark.parametrize("cohort", [(4,), (1,), ()], ids=["rejected", "without data", "nobody"])
def test_a_round_without_uploads_changes_nothing(name: str, cohort: tuple[int, ...]):
    (before, _), (after, report) = plain(name, [(2,), cohort], poisoned(federation().train, 4))
    assert gap(before, after) == 0
    assert float(report.used.sum()) == 0
    assert float(report.rejected.sum()) == (cohort == (4,))
