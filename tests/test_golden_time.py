"""Golden vectors of simulated time: those of FedScale's and FLSim's code, and of formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CPU
from test_golden import EXACT, one_row_a_client, quadratic
from vectors import golden

from fedjax_kd.algorithms import fedavg, fedprox
from fedjax_kd.core import Algorithm, Pool, State
from fedjax_kd.data.devices import Devices, Trace
from fedjax_kd.data.sampling import NOWHERE, Cohort, Ids, fixed
from fedjax_kd.engine.arrivals import Begun, ServerStep, cohorts_of, server_steps
from fedjax_kd.engine.block_cohorts import block_cohorts
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.clock import Clock, Draw, Durations, synchronous
from fedjax_kd.engine.round import Resident, make_round
from fedjax_kd.engine.schedule import lay_out
from fedjax_kd.engine.validation import repeated
from fedjax_kd.local import local_training
from fedjax_kd.wrappers.fedasync import with_fedasync
from fedjax_kd.wrappers.fedbuff import with_fedbuff

SUMS = {"rtol": 1e-6, "atol": 1e-6}  # shares of clients are float32


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    """Of FedScale's and FLSim's code, and of the papers' formulas."""
    return golden("async_systems")


def devices_of(vectors: dict[str, np.ndarray], traces: Any = None) -> Devices:
    """Ten devices; a unit of bandwidth is a byte a second."""
    return Devices(vectors["in_ms_per_sample"] / 1000, vectors["in_bandwidth"], traces)


def durations_of(vectors: dict[str, np.ndarray], steps: int) -> Callable[[Ids, int], Durations]:
    """What clients need for so many local steps."""
    devices, batch = devices_of(vectors), int(vectors["in_batch"])
    wire = float(vectors["in_up"] + vectors["in_down"])

    def durations(ids: Ids, number: int) -> Durations:
        step = devices.training_seconds(ids, np.full(len(ids), batch))
        return Durations(
            wire / devices.bytes_per_second[ids], step, np.full(len(ids), float(steps))
        )

    return durations


def test_how_long_clients_take(vectors: dict[str, np.ndarray]):
    needed = durations_of(vectors, int(vectors["in_steps"]))(np.arange(10), 0)
    np.testing.assert_allclose(needed.step * needed.steps, vectors["out_compute_s"], **EXACT)
    np.testing.assert_allclose(needed.transmission, vectors["out_comm_s"], **EXACT)
    np.testing.assert_allclose(needed.seconds, vectors["out_total_s"], **EXACT)


def trace_of(vectors: dict[str, np.ndarray]) -> Trace:
    """When a device is online."""
    on, off = vectors["in_trace_active"].tolist(), vectors["in_trace_inactive"].tolist()
    return Trace(tuple(on), tuple(off), float(vectors["in_trace_finish"]))


def test_when_a_device_is_online(vectors: dict[str, np.ndarray]):
    """Whatever was asked before."""
    trace, asked = trace_of(vectors), vectors["in_trace_query"].tolist()
    found = [trace.is_on(t) for t in asked]
    assert found == vectors["out_trace_stateless"].tolist()
    assert all(trace.is_on(trace.next_on(t)) and trace.next_on(t) >= t for t in asked)


def test_of_more_clients_the_first_make_the_round(vectors: dict[str, np.ndarray]):
    """One that is offline when it would be done does not count."""
    seconds = vectors["out_total_s"]
    always, never = Trace((0.0,), (1e6,), 1e6), Trace((0.0,), (seconds[3] / 2,), 1e6)
    traces = tuple(never if n == 3 else always for n in range(10))
    asked = vectors["in_selected"]
    clock = Clock(devices_of(vectors, traces), over_commitment=float(vectors["in_overcommit"]))
    target = int(vectors["in_target_cohort"])
    assert clock.asked(target, 10) == len(asked)
    draw = Draw(fixed([asked.tolist()]), 10, seed=0)
    steps = int(vectors["in_steps"])
    (first,) = islice(synchronous(clock, draw, durations_of(vectors, steps), target), 1)
    assert sorted(first.ids.tolist()) == sorted(vectors["out_oc_run"].tolist())
    assert first.facts["simulated_seconds"] == pytest.approx(float(vectors["out_oc_round_s"]))
    late = {*first.unheard.tolist()} - {3}
    assert late == {*vectors["out_oc_stragglers"].tolist()}
    assert (first.facts["late"], first.facts["offline"]) == (1, 1)


@pytest.mark.parametrize("late", ["drop", "partial"])
def test_who_meets_a_deadline(vectors: dict[str, np.ndarray], late: Any):
    deadline, full = float(vectors["in_deadline_s"]), int(vectors["in_full_steps"])
    needed = Durations(vectors["in_comm_s"], vectors["in_step_s"], np.full(10, float(full)))
    assert needed.steps_until(deadline).tolist() == vectors["out_partial_steps"].tolist()
    clock = Clock(devices_of(vectors), deadline=deadline, late=late)
    draw = Draw(fixed([range(10)]), 10, seed=0)
    first, second = islice(synchronous(clock, draw, lambda ids, n: needed, 10), 2)
    assert sorted(first.ids.tolist()) == np.flatnonzero(vectors[f"out_{late}_mask"]).tolist()
    assert first.facts["simulated_seconds"] == float(vectors["out_round_s_drop"])
    assert second.facts["simulated_seconds"] == 2 * float(vectors["out_round_s_drop"])
    (whole,) = islice(synchronous(Clock(clock.devices), draw, lambda ids, n: needed, 10), 1)
    assert whole.facts["simulated_seconds"] == float(vectors["out_round_s_sync"])


def quadratics(vectors: dict[str, np.ndarray], owners: np.ndarray) -> Pool:
    """Clients with the quadratic of an owner each."""
    return one_row_a_client(
        len(owners), (jnp.asarray(vectors["in_A"][owners]), jnp.asarray(vectors["in_b"][owners]))
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("late", ["all", "drop", "partial"])
def test_stragglers(vectors: dict[str, np.ndarray], late: str):
    """Those that are not done are left out, or have done a part of their steps."""
    steps, full = vectors["in_round_steps"], int(vectors["in_round_steps"].max())
    fit = local_training(client_lr=float(vectors["in_lr"]), batch_size=0, epochs=full)
    method = fedavg(quadratic(vectors["in_x0"]), fit)
    method = method._replace(client_update=_weighing(method, vectors["in_num_examples"]))
    who = {"drop": steps == full, "partial": steps >= 1}.get(late, steps >= 0)
    pool = quadratics(vectors, np.arange(5))
    layout = lay_out([range(5)], 5, 5, [requested_chunks(CPU, (5,), 5)], work=[method.work])
    ids = np.flatnonzero(who)
    placements = jax.tree.map(jnp.asarray, layout.place(ids, np.ones(5, int)[ids])[0])
    limits = steps.astype(np.int32) if late == "partial" else None
    run = jax.jit(make_round([method], layout, CPU, most_steps=limits))
    state = State(method.server_init(jax.random.key(0)), ((),))
    state, _ = run(jax.random.key(0), state, Resident(pool), placements, jnp.int32(0))
    np.testing.assert_allclose(state.server.model.params, vectors[f"out_straggler_{late}"], **SUMS)


def _weighing(method: Algorithm, examples: np.ndarray) -> Callable[..., Any]:
    """Clients that vote by these numbers of examples."""

    def client_update(key: Any, message: Any, client: Any, data: Any, round: Any) -> Any:
        upload, client = method.client_update(key, message, client, data, round)
        return upload._replace(weight=jnp.asarray(examples)[data.client]), client

    return client_update


def steps_of(
    vectors: dict[str, np.ndarray], concurrency: int, buffer: int, most: int | None = None
) -> Iterator[ServerStep]:
    """The server's steps along the vectors' queue, each job that of a client of its own."""
    jobs = iter(enumerate(vectors["in_durations"].tolist()))
    return server_steps(
        lambda free, *_: [Begun(*next(jobs)) for _ in range(free)], concurrency, buffer, most
    )


def after_each(
    vectors: dict[str, np.ndarray], method: Algorithm, cohorts: list[Cohort]
) -> np.ndarray:
    """The server's parameters after each step of an asynchronous schedule."""
    pool = quadratics(vectors, vectors["in_queue"])
    writes = [c.starts.write for c in cohorts if c.starts is not None]
    places = max((w + 1 for w in writes if w != NOWHERE), default=1)
    buffer, population = len(cohorts[0].ids), len(vectors["in_queue"])
    layout = lay_out(
        [range(population)],
        population,
        buffer,
        [requested_chunks(CPU, (buffer,), buffer)],
        work=[method.work],
    )
    drawn = block_cohorts(
        cohorts.__getitem__,
        layout,
        lambda ids: np.ones(len(ids), int),
        first=0,
        rounds=len(cohorts),
        last=len(cohorts),
    )
    run = jax.jit(make_round([method], layout, CPU))
    server = method.server_init(jax.random.key(0))
    state, found = State(server, ((),), repeated(server, places)), []
    for n in range(len(cohorts)):
        placements = jax.tree.map(lambda a, n=n: jnp.asarray(a[n]), drawn.groups)
        state, _ = run(jax.random.key(0), state, Resident(pool), placements, jnp.int32(n))
        found.append(np.asarray(state.server.model.params))
    return np.stack(found)


def buffered(vectors: dict[str, np.ndarray], **options: Any) -> Algorithm:
    """FedBuff on the quadratics."""
    rate = float(vectors["in_lr"])
    fit = local_training(client_lr=rate, batch_size=0, epochs=int(vectors["in_local_steps"]))
    server_lr = options.pop("server_lr", 1.0)
    method = fedavg(quadratic(vectors["in_x0"]), fit, weighting="uniform", server_lr=server_lr)
    return with_fedbuff(method, **options)


@pytest.mark.parametrize("most", [None, 0])
def test_events_of_an_asynchronous_server(vectors: dict[str, np.ndarray], most: int | None):
    times = vectors["out_fedbuff_time" if most is None else "out_fedbuff_maxstale0_time"]
    steps = islice(steps_of(vectors, 3, 2, most), len(times))
    concurrency, buffer = int(vectors["in_concurrency"]), int(vectors["in_buffer"])
    assert (concurrency, buffer) == (3, 2)
    steps = list(steps)
    np.testing.assert_allclose([s.seconds for s in steps], times, **EXACT)
    if most is None:
        trace = vectors["out_fedbuff_trace"]
        done = [(n, job) for n, step in enumerate(steps) for job in step.used]
        rows = [(job.finish, job.number, job.version, n - job.version) for n, job in done]
        expected = trace[trace[:, 0] >= 0][: len(rows)]
        np.testing.assert_allclose(rows, expected[:, [0, 1, 3, 4]], **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("key", "options", "most"),
    [
        ("out_fedbuff_x", {}, None),
        ("out_fedbuff_norm_sum_x", {"normalise": "weights"}, None),
        ("out_fedbuff_noscale_x", {"exponent": 0.0}, None),
        ("out_fedbuff_etag0p5_x", {"server_lr": 0.5}, None),
        ("out_fedbuff_maxstale0_x", {}, 0),
    ],
)
def test_fedbuff(vectors: dict[str, np.ndarray], key: str, options: dict[str, Any], most: Any):
    expected = vectors[key]
    steps = islice(steps_of(vectors, 3, 2, most), len(expected))
    found = after_each(vectors, buffered(vectors, **options), list(cohorts_of(steps)))
    np.testing.assert_allclose(found, expected, **SUMS)


@pytest.mark.usefixtures("float64")
def test_fedbuff_as_in_flsim():
    """Its step is that of a fresh upload at a staleness of 1."""
    vectors, official = golden("async_systems"), golden("fedbuff_official")
    steps = list(islice(steps_of(vectors, 3, 2), len(official["out_flsim_fedbuff_x"])))
    used = [job for step in steps for job in step.used]
    owners = vectors["in_queue"][[job.number for job in used]]
    assert owners.tolist() == official["in_client"].tolist()
    cohorts = list(cohorts_of(steps))
    found = after_each(vectors, buffered(vectors, usual=1.0), cohorts)
    np.testing.assert_allclose(found, official["out_flsim_fedbuff_x"], **SUMS)
    np.testing.assert_allclose(
        after_each(vectors, buffered(vectors), cohorts), official["out_paper_fedbuff_x"], **SUMS
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("out_fedasync_poly", {"decay": "polynomial", "a": 0.5}),
        ("out_fedasync_hinge", {"decay": "hinge", "a": 10.0, "b": 0}),
        ("out_fedasync_const", {"decay": "constant"}),
    ],
)
def test_fedasync(vectors: dict[str, np.ndarray], key: str, options: dict[str, Any]):
    expected = vectors[f"{key}_x"]
    rate, rho = float(vectors["in_lr"]), float(vectors["in_fedasync_rho"])
    fit = local_training(client_lr=rate, batch_size=0, epochs=int(vectors["in_local_steps"]))
    method = fedprox(quadratic(vectors["in_x0"]), fit, mu=rho)
    given: Any = SimpleNamespace(train=quadratics(vectors, np.arange(5)), public=None)
    alpha = float(vectors["in_fedasync_alpha"])
    method = with_fedasync(method, given, alpha=alpha, **options)
    steps = islice(steps_of(vectors, 3, 1), len(expected))
    found = after_each(vectors, method, list(cohorts_of(steps)))
    np.testing.assert_allclose(found, expected, **SUMS)
