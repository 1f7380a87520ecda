"""Simulated time: who is done when, against vectors, and what a run in simulated time learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CPU, federation, gap, logistic
from test_golden import EXACT, one_row_a_client, quadratic
from vectors import golden

from fedjax_kd.algorithms import fedavg, fedprox, scaffold
from fedjax_kd.core import Algorithm, Pool, Round, State
from fedjax_kd.data import devices as kinds
from fedjax_kd.data.devices import Devices, Trace
from fedjax_kd.data.sampling import NOWHERE, Cohort, Ids, fixed, uniform
from fedjax_kd.engine.arrivals import Begun, ServerStep, cohorts_of, server_steps
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.block_cohorts import block_cohorts
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.clock import Clock, Draw, Durations, synchronous
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.round import Resident, make_round
from fedjax_kd.engine.schedule import lay_out
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.engine.validation import repeated
from fedjax_kd.local import local_training
from fedjax_kd.train import Result, train
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


def trained(method: Algorithm | None = None, **options: Any) -> tuple[Result, Any]:
    """Six rounds of the ragged federation, and its simulation."""
    given: dict[str, Any] = {"num_rounds": 6, "cohort_size": 3, "eval_every": 2} | options
    method = METHOD if method is None else method
    return train(method, WHOLE, **given), simulate(method, WHOLE, **given)


WHOLE = federation((7, 2, 1, 5, 12, 3))
METHOD = fedavg(logistic(), local_training(batch_size=4), weighting="uniform")
ALIKE = kinds.constant(6, forward_ms=5)
RAGGED = kinds.log_normal(6, sigma=1.0, mbit=1.0, mbit_sigma=1.0)


def columns(result: Result, name: str) -> list[float]:
    """A column of all rounds but the initial evaluation."""
    return [row[name] for row in result.history[1:]]


@pytest.mark.parametrize("late", ["drop", "partial"])
def test_without_a_hurry_all_is_as_without_a_clock(late: Any):
    """To the last bit; a deadline that everybody meets changes nothing either."""
    plain, _ = trained()
    timed, s = trained(clock=Clock(RAGGED, batch_size=4, deadline=1e6, late=late))
    assert gap(plain.state, timed.state) == 0
    longest = [s.time.timetable.cohort(n) for n in range(6)]
    assert all(len(c.unheard) == 0 for c in longest)
    assert columns(timed, "simulated_seconds") == sorted(columns(timed, "simulated_seconds"))
    assert columns(timed, "bytes_down") == columns(plain, "bytes_down")


def test_equal_clients_without_waiting_are_fedavg():
    """FedBuff of as many clients as its buffer holds, all equally fast: to the last bit."""
    steps = local_training(batch_size=4, steps=2)
    method = fedavg(logistic(), steps, weighting="uniform")
    plain, _ = trained(method)
    around = with_fedbuff(method)
    buffered, s = trained(around, clock=Clock(ALIKE, batch_size=4, concurrency=3))
    assert gap(plain.state.server, buffered.state.server) == 0
    assert columns(buffered, "staleness") == [0] * 6
    assert columns(buffered, "simulated_seconds") == pytest.approx(np.arange(1, 7) * 0.12)
    assert s.time.places == 1


def test_late_clients_cost_bytes_and_time():
    """Those that are not waited for have received the model."""
    whole, _ = trained(clock=Clock(RAGGED, batch_size=4))
    seconds = np.diff([0, *columns(whole, "simulated_seconds")])
    deadline = float(np.median(seconds))
    hurried, _ = trained(clock=Clock(RAGGED, batch_size=4, deadline=deadline))
    asked, heard = columns(hurried, "bytes_down"), columns(hurried, "clients")
    assert asked == columns(whole, "bytes_down")
    assert sum(heard) < sum(columns(whole, "clients"))
    assert sum(columns(hurried, "late")) == 6 * 3 - sum(heard)
    spent = np.diff([0, *columns(hurried, "simulated_seconds")])
    np.testing.assert_allclose(spent, np.minimum(seconds, deadline))


def test_partial_work_takes_the_steps_there_was_time_for():
    slow = Devices(np.array([0.1, 0.1, 0.1, 0.1, 0.3, 9.0]), np.full(6, np.inf))
    clock = Clock(slow, batch_size=4, deadline=3.7, late="partial")
    result, s = trained(clock=clock, sampler=uniform(6, 6), cohort_size=6)
    # Steps of 1.2 s, for the last two of 3.6 and 108 s; sizes 7, 2, 1, 5, 12 and 3 in batches of 4.
    assert s.time.most_steps.tolist() == [3, 3, 3, 3, 1, 0]
    assert columns(result, "clients") == [5] * 6
    assert columns(result, "train_steps") == [pytest.approx((2 + 1 + 1 + 2 + 1) / 5)] * 6
    assert columns(result, "steps") == [7] * 6


@pytest.mark.parametrize("method", [scaffold, fedprox, fedavg])
def test_asynchronous_training_learns(method: Any):
    made = with_fedbuff(method(logistic(), local_training(batch_size=4)))
    options = {"num_rounds": 40, "cohort_size": 2, "eval_every": 10}
    clock = Clock(RAGGED, batch_size=4, concurrency=4)
    result, s = trained(made, clock=clock, **options)
    assert result.history[-1]["test_accuracy"] > 0.85
    assert max(columns(result, "staleness")) > 1
    assert 1 <= s.time.places <= 4
    narrow, _ = trained(made, clock=clock, chunk=1, **options)
    assert gap(narrow.state, result.state) < 1e-5


def test_stale_uploads_are_thrown_away():
    clock = Clock(RAGGED, batch_size=4, concurrency=4, max_staleness=1)
    result, s = trained(clock=clock, num_rounds=20, cohort_size=1)
    assert max(columns(result, "staleness")) <= 1
    assert sum(columns(result, "late")) > 0
    assert s.time.places == 1
    sent = np.array(columns(result, "clients")) + columns(result, "late")
    np.testing.assert_allclose(sent * s.types[0].bytes_up, columns(result, "bytes_up"))


def test_a_server_of_the_past_survives_a_round_without_an_upload():
    """Client 1 has no examples: its step changes nothing, and the others' past is not lost."""
    holed = federation((7, 0, 1, 5, 12, 3))
    slow = Devices(np.full(6, 0.01), np.array([1e3, 2e3, 5e2, 1e3, 3e2, 2e3]))
    given: dict[str, Any] = {"num_rounds": 12, "cohort_size": 1, "eval_every": 4}
    s = simulate(METHOD, holed, clock=Clock(slow, batch_size=4, concurrency=3), **given)
    result = train(METHOD, holed, clock=Clock(slow, batch_size=4, concurrency=3), **given)
    assert 0 in columns(result, "clients")
    servers = [METHOD.server_init(s.key("init"))]
    for number in range(12):
        cohort = s.cohort(number)
        (client,), (lag,) = cohort.ids.tolist(), cohort.starts.lags.tolist()
        servers.append(_by_hand(s, servers, client, (number, lag)))
    assert gap(servers[-1], result.state.server) < 1e-6


def _by_hand(s: Any, servers: list[Any], client: int, when: tuple[int, int]) -> Any:
    """The server after the upload of one client that began from a server of the past."""
    number, lag = when
    began, now = servers[number - lag], servers[-1]
    key_clients, key_server = jax.random.split(jax.random.fold_in(s.key("rounds"), number))
    there = jnp.ones(1)
    cohort = jnp.array([client], jnp.int32)
    round = Round(jnp.int32(number - lag), cohort, there, there, 6, None)
    message = METHOD.broadcast(began, jnp.int32(client), round)
    key, data = jax.random.fold_in(key_clients, client), s.federation.train.of(jnp.int32(client))
    if int(data.size) == 0:
        return now
    upload, _ = METHOD.client_update(key, message, (), data, round)
    return METHOD.server_update(key_server, now, upload.message, round)


def test_nobody_is_asked_who_is_offline():
    """A round in which nobody is online waits until somebody is."""
    day = Trace((0.0,), (10.0,), 100.0)
    devices = kinds.replace(kinds.constant(6, forward_ms=100), traces=(day,) * 6)
    result, s = trained(clock=Clock(devices, batch_size=4), num_rounds=8)
    seconds = columns(result, "simulated_seconds")
    assert all(len(s.cohort(n).ids) in (0, 1, 2, 3) for n in range(8))
    assert 100.0 in seconds
    assert any(len(s.cohort(n).ids) == 0 for n in range(8))


def test_files_in_the_form_of_fedscale():
    fleet = {str(n): {"computation": 10.0 * n, "communication": 8.0 * n} for n in range(1, 4)}
    devices = kinds.devices_in(json.dumps(fleet), 2)
    assert devices.forward_seconds.tolist() == [0.01, 0.02]
    assert devices.bytes_per_second.tolist() == [1000, 2000]
    online = {str(n): {"active": [0], "inactive": [5], "finish_time": 9} for n in range(2)}
    assert kinds.with_traces(devices, json.dumps(online)).traces == (Trace((0,), (5,), 9),) * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kinds.devices_in("{}", 2), "devices of 0 clients, but the federation has 2"),
        (lambda: kinds.devices_in('{"0": {}}', 1), "not of the form"),
        (lambda: kinds.with_traces(ALIKE, '{"0": {"active": [0]}}'), "client 1 is missing"),
        (lambda: Trace((0.0, 5.0), (7.0, 9.0), 10.0), "must end before the next"),
        (lambda: Trace((), (), 10.0), "at least one interval"),
        (lambda: Clock(ALIKE, deadline=0.0), "deadline"),
        (lambda: Clock(ALIKE, deadline=1.0, concurrency=3), "no meaning"),
        (lambda: Clock(ALIKE, max_staleness=3), "nothing is stale"),
        (lambda: trained(clock=Clock(kinds.constant(5))), "devices of 5 clients"),
        (lambda: trained(clock=Clock(ALIKE, over_commitment=3.0)), "9 clients are asked"),
        (lambda: trained(clock=Clock(ALIKE, concurrency=7)), "concurrency is 7"),
        (
            lambda: trained(clock=Clock(kinds.constant(6, forward_ms=0), concurrency=2)),
            "clock would stand still",
        ),
    ],
)
def test_clocks_that_cannot_be(build: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_longer_run_meets_the_same_cohorts():
    clock = Clock(RAGGED, batch_size=4, concurrency=4)
    short, long = (trained(clock=clock, num_rounds=n)[1] for n in (4, 12))
    for n in range(4):
        for a, b in zip(short.cohort(n), long.cohort(n), strict=True):
            np.testing.assert_equal(a, b)
    assert jax.tree.leaves(initial_state(long).past)[0].shape[0] == long.time.places


@pytest.mark.parametrize("options", [{"mesh": make_mesh(2)}, {"engine": "python"}, {"chunk": 2}])
def test_asynchronous_training_is_the_same_however_it_runs(options: dict[str, Any]):
    method = with_fedbuff(fedavg(logistic(), local_training(batch_size=4)))
    given: dict[str, Any] = {"clock": Clock(RAGGED, batch_size=4, concurrency=4)}
    plain, _ = trained(method, **given)
    other, _ = trained(method, **given, **options)
    assert max(columns(plain, "staleness")) >= 1
    assert gap(plain.state, other.state) < 1e-5
