"""What holds for every method of the registry."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import (
    CLASSES,
    COHORTS,
    FEATURES,
    SIZES,
    federation,
    gap,
    in_round,
    play,
    public,
    rounds,
    start,
    task_for,
)

from fedjax_kd import batching, tree
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Algorithm, Pool, State
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.round import Report, Resident, RoundFn, make_round
from fedjax_kd.engine.schedule import Placement, lay_out
from fedjax_kd.engine.validation import check_algorithm, check_same_type
from fedjax_kd.local import local_training
from fedjax_kd.options import options

HYPERNET = {"population": len(SIZES), "hidden": 3, "layers": 1, "embedding": 2, "server_lr": 0.5}
METHODS = pytest.mark.parametrize("name", REGISTRY)
# FedAvg's own functions with something else in them, which the debug engine cannot tell from it.
LOSSES_AND_OPTIMISERS = (
    *("fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedprox"),
    *("fedntd", "fedlsd", "localkd", "fedalign", "fedmixup", "fedgradaug"),
)
OPTIONS: dict[str, dict[str, Any]] = {  # of methods that cannot do without, or in less time
    "fedgradaug": {"subnets": 2},
    "fedkd": {"t_min": 0.5, "t_max": 0.9, "rounds": 2},
    "pfedhn": HYPERNET,
    "pfedhn_pc": HYPERNET,
    "fedgen": {
        "generated": 4,
        "generator_steps": 2,
        "generator_batch": 4,
        "generator_hidden": 4,
        "generator_noise": 2,
    },
    "feddf": {"distil_steps": 2, "distil_batch": 4, "eta": 0.02, "best": False},
    "fedmd": {"classes": CLASSES, "alignment": 6, "public_batch": 4},
    "fedgkt": {"population": 6, "capacity": 12, "classes": CLASSES, "server_hidden": ()},
    "ccvr": {"after": 2, "virtual": 4, "head_epochs": 2, "head_batch": 6},
}
PLACES = len(COHORTS[0]) + 1  # so that one is always empty
FIT = {"client_lr": 0.1, "batch_size": 4}
ROUNDING = 1e-5  # sums over clients in another order, after three rounds

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
BODY, HEAD = 4 * (FEATURES * 2 + 2), 4 * (2 * CLASSES + CLASSES)  # of two hidden units
BYTES = {  # down, up, kept, if not (MODEL, MODEL, 0)
    "fedalign": (BODY + HEAD, BODY + HEAD, 0),
    "fedgradaug": (BODY + HEAD, BODY + HEAD, 0),
    "scaffold": (2 * MODEL, 2 * MODEL, MODEL),
    "standalone": (0, 0, MODEL),
    "fedper": (BODY, BODY, HEAD),
    "fedbn": (MODEL, MODEL, 4 * 4 * FEATURES),  # scale, bias, mean and variance stay
    "fedkd": (BODY + HEAD + 4, BODY + HEAD, BODY + HEAD + 4 * 2 * 2),  # a number; W_h
    "pfedhn": (MODEL, MODEL, 4),  # the client's number
    "pfedhn_pc": (BODY, BODY, HEAD + 4),
    "moon": (BODY + HEAD, BODY + HEAD, BODY + HEAD + 1),
    # Down the generator: (noise + classes) x 4 weights, 4 x 4 of its norm, an output of 2 features.
    "fedgen": (BODY + HEAD + 4 * (20 + 16 + 10 + CLASSES), BODY + HEAD + 4 * CLASSES, 0),
    "feddf": (BODY + HEAD, BODY + HEAD, 0),
    "fedmd": (4 * 6 * CLASSES + 9, 4 * 6 * CLASSES, MODEL + 1),  # two seeds and a boolean
    # Of 12 rows: down logits; up two features, logits and a label.
    "fedgkt": (4 * 12 * CLASSES + 1, 4 * (12 * (2 + CLASSES + 1) + 1), BODY + HEAD),
    "ccvr": (BODY + HEAD, BODY + HEAD + 4 * CLASSES * (1 + 2 + 4), 0),
}

# What leaves the default method as it is, where an option has no default number.
NEUTRAL = {
    "client_momentum": 0.0,
    "weight_decay": 0.0,
    "clip_norm": 1e6,
    "initial": 1e-6,
    "tukey": 1.0,
}
OTHER = {
    "t_min": 0.9,
    "server_clip": 0.01,
    "rounds": 1.0,
    "student": 100.0,
    "width": 0.8,  # of two hidden units both in place of one
    "delta": 10.0,
    "alpha": 0.5,
    "lr_decay": 0.5,
    "client_momentum": 0.5,
    "clip_norm": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def short_shuffle() -> Iterator[None]:
    """Any number of turns is a permutation; the debug engine takes them one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "_SHUFFLE_ROUNDS", 3)
        yield


def build(name: str, fit: dict[str, Any] = FIT, **given: Any) -> Algorithm:
    """A method on the smallest task that suits it."""
    factory = REGISTRY[name]
    needs_fit = "fit" in inspect.signature(factory).parameters
    task = task_for(name)
    parts = (task, local_training(**fit)) if needs_fit else (task,)
    return factory(*parts, **(OPTIONS.get(name, {}) | given))


def one_round(algorithm: Algorithm) -> RoundFn:
    """The round of small cohorts in one chunk, to be compiled by the caller."""
    clients = federation().num_clients
    chunks = [requested_chunks((PLACES,), PLACES)]
    layout = lay_out([range(clients)], clients, PLACES, chunks, work=[algorithm.work])
    return make_round([algorithm], layout)


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


@METHODS
def test_chunks_and_devices_change_nothing(name: str):
    engines_agree(name, COHORTS, chunk=1, mesh=make_mesh(2))


@pytest.mark.parametrize("name", [n for n in REGISTRY if n not in LOSSES_AND_OPTIMISERS])
def test_the_debug_engine_agrees(name: str):
    engines_agree(name, COHORTS[:1], debug=True)


def engines_agree(name: str, cohorts: Sequence[Sequence[int]], **how: Any) -> None:
    """Compares rounds run in another way with those of a cohort at once."""
    played = plain(name, cohorts)
    state, reports = play(build(name), federation().train, cohorts, public=public(), **how)
    assert gap(state, played[-1][0]) < ROUNDING
    assert gap(reports, [report for _, report in played]) < ROUNDING


@METHODS
def test_order_of_a_cohort_is_irrelevant(name: str):
    run, _ = counted(name)
    state = start([build(name)], np.zeros(federation().num_clients))
    resident, key = Resident(federation().train, public()), jax.random.key(2)
    one, other = (
        run(key, state, resident, one_chunk(ids), jnp.int32(0))
        for ids in ([4, 0, 6, 3], [6, 3, 4, 0])
    )
    assert gap(one, other) < ROUNDING


@METHODS
def test_clients_outside_the_cohort_stay_bitwise(name: str):
    before = start([build(name)], np.zeros(federation().num_clients))
    for (after, _), cohort in zip(plain(name), COHORTS, strict=True):
        absent = np.setdiff1d(np.arange(federation().num_clients), cohort)
        for old, new in zip(*map(jax.tree.leaves, (before.clients, after.clients)), strict=True):
            np.testing.assert_array_equal(old[absent], new[absent])
        before = after


@METHODS
def test_declared_bytes(name: str):
    algorithm = build(name)
    types = check_algorithm(algorithm, federation().train, public())
    declared = (types.bytes_down, types.bytes_up, tree.num_bytes(types.client))
    assert declared == BYTES.get(name, (MODEL, MODEL, 0))
    message = algorithm.broadcast(
        algorithm.server_init(jax.random.key(0)), jnp.int32(0), in_round()
    )
    check_same_type(types.message, message, "what is sent must be what was declared")


def numeric(factory: Any) -> list[tuple[str, Any]]:
    """The options of a factory that may be any number, with their defaults."""
    found = [o for o in options(factory) if float in (o.type, *get_args(o.type))]
    return [(o.name, o.default) for o in found]


@METHODS
def test_numeric_options_are_traceable(name: str):
    has_fit = "fit" in inspect.signature(REGISTRY[name]).parameters
    method, local = dict(numeric(REGISTRY[name])), dict(numeric(local_training)) if has_fit else {}
    method |= {o: v for o, v in OPTIONS.get(name, {}).items() if o in method}
    defaults = method | local | ({"client_lr": FIT["client_lr"]} if has_fit else {})
    values = {o: NEUTRAL[o] if v is None else v for o, v in defaults.items()}
    data, resident = federation(), Resident(federation().train, public())
    slots = one_chunk([4, 0, 2, data.num_clients])

    def three_rounds(values: dict[str, jax.Array]) -> Any:
        fit = FIT | {o: values[o] for o in local}
        traced = build(name, fit, **{o: values[o] for o in method})
        run = one_round(traced)

        def step(state: State, number: jax.Array) -> tuple[State, None]:
            return run(jax.random.key(2), state, resident, slots, number)[0], None

        numbers = jnp.arange(3, dtype=jnp.int32)
        return jax.lax.scan(step, start([traced], np.zeros(data.num_clients)), numbers)[0]

    sweep = [values, *(values | {o: OTHER.get(o, 0.7 * v + 0.01)} for o, v in values.items())]
    stacked = jax.tree.map(lambda *numbers: jnp.array(numbers, jnp.float32), *sweep)
    swept = jax.jit(jax.vmap(three_rounds))(stacked)
    expected = start([build(name)], np.zeros(data.num_clients))
    for number in range(3):
        run, key = counted(name)[0], jax.random.key(2)
        expected, _ = run(key, expected, resident, slots, jnp.int32(number))
    for lane, changed in enumerate([None, *values]):
        difference = gap(jax.tree.map(lambda a, lane=lane: a[lane], swept), expected)
        assert (difference < ROUNDING) == (changed is None), changed


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
