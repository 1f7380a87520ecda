"""Simulated time: what a run learns in it, and when it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic

from fedjax_kd.algorithms import fedavg, fedprox, scaffold
from fedjax_kd.core import Algorithm, Round
from fedjax_kd.data import devices as kinds
from fedjax_kd.data.devices import Devices, Trace
from fedjax_kd.data.sampling import uniform
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.clock import Clock
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.train import Result, train
from fedjax_kd.wrappers.fedbuff import with_fedbuff


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


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": make_mesh(2)},
        pytest.param({"engine": "python"}, marks=pytest.mark.thorough),
        {"chunk": 2},
    ],
)
def test_asynchronous_training_is_the_same_however_it_runs(options: dict[str, Any]):
    method = with_fedbuff(fedavg(logistic(), local_training(batch_size=4)))
    given: dict[str, Any] = {"clock": Clock(RAGGED, batch_size=4, concurrency=4)}
    plain, _ = trained(method, **given)
    other, _ = trained(method, **given, **options)
    assert max(columns(plain, "staleness")) >= 1
    assert gap(plain.state, other.state) < 1e-5
