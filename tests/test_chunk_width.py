"""How many clients are trained at once: rules, measurements and what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import CPU, federation, logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.backends import backend_of
from fedjax_kd.engine import chunk_width, compile_cache, memory
from fedjax_kd.engine.chunk_width import Workload
from fedjax_kd.engine.schedule import Chunks
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training


def workload(**local: Any) -> Workload:
    """Six clients of a logistic regression."""
    algorithm, pool = fedavg(logistic(), local_training(**local)), federation().train
    types = check_algorithm(algorithm, pool)
    return Workload(algorithm, types, pool, None, [[3.0, 2.0, 2.0, 1.0]], 10, CPU)


def test_measuring_gives_seconds_at_growing_widths():
    costs = chunk_width.measure_costs(workload(batch_size=4), flops=1e3)
    assert list(costs) == [w for w in (1, 2, 4) if w <= max(costs)]
    assert all(0 < seconds < 1 for seconds in costs.values())


@pytest.mark.parametrize("local", [{"steps": 500}, {"batch_size": 0}, {"epochs": 40}])
def test_a_measurement_takes_a_few_steps_of_each_client(local: dict[str, Any]):
    load = workload(**local)
    sizes = chunk_width._short_clients(load)
    work = np.asarray(load.algorithm.work(sizes, np.arange(len(sizes)), 0))
    shortest = np.asarray(load.algorithm.work(np.array([1]), np.array([0]), 0)).item()
    assert work.max() <= max(chunk_width._STEPS, shortest)


def test_too_little_memory_ends_the_measurement(monkeypatch: pytest.MonkeyPatch):
    def probe(load: Any, sizes: Any, width: int, turns: int) -> tuple[float, int]:
        if width > 1:
            raise memory.TooLargeError("no room")
        return 1.0, 8

    monkeypatch.setattr(chunk_width, "_probe", probe)
    assert list(chunk_width.measure_costs(workload(), flops=1e3)) == [1]


def test_widths_that_are_predicted_not_to_fit_are_not_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free", lambda: 1000)
    monkeypatch.setattr(chunk_width, "_probe", lambda load, sizes, width, turns: (1.0, 200 * width))
    assert list(chunk_width.measure_costs(workload(), flops=1e3)) == [1]


def test_a_wider_chunk_that_does_not_pay_ends_the_measurement(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def probe(load: Any, sizes: Any, width: int, turns: int) -> tuple[float, int]:
        tried.append(width)
        return width**1.5, 1

    load = workload()._replace(cohorts=[[1.0] * 300])
    monkeypatch.setattr(chunk_width, "_probe", probe)
    costs = chunk_width.measure_costs(load, flops=1e3)
    assert tried == [1, 4]
    assert costs[2] == pytest.approx((costs[1] * 2 + costs[4]) / 3)


def test_long_runs_are_measured_once_and_short_ones_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path))
    measured = []

    def measure(load: Workload, flops: float) -> dict[int, float]:
        measured.append(load.largest)
        return {1: 1.0, 2: 1.1}

    monkeypatch.setattr(chunk_width, "measure_costs", measure)
    load = workload(batch_size=4)
    rule = chunk_width.choose_chunks(load)
    assert not measured
    assert rule.widths == (4,)
    for _ in range(2):
        assert chunk_width.choose_chunks(load._replace(rounds=10**12)).widths == (2,)
    chunk_width.choose_chunks(load._replace(rounds=10**12, cohorts=[[1.0, 1.0]]))
    assert measured == [4, 2], "another cohort size is another measurement"


def test_ragged_cohorts_get_narrow_chunks_too_and_even_ones_do_not():
    costs = {1: 2.5, 4: 5.5, 16: 17.5}
    ragged = [[200.0, 40.0, 9.0] + [2.0] * 29]
    assert chunk_width.cheapest(costs, ragged).widths[0] == 1
    assert len(chunk_width.cheapest(costs, ragged).widths) > 1
    assert chunk_width.cheapest(costs, [[7.0] * 32]).widths == (16,)
    assert len(chunk_width.cheapest(costs, ragged, most=1).widths) == 1


def test_an_accelerator_is_filled():
    gpu = backend_of("gpu")
    assert max(chunk_width.assumed_costs(gpu, 256, 1000)) == 250
    costs = chunk_width.assumed_costs(gpu, 256, 200)
    assert chunk_width.cheapest(costs, [[5.0] * 200]).widths == (200,)


def test_narrower_chunks_end_at_one():
    chunks = Chunks((1, 3), (1.0, 2.0))
    for expected in ((1,), (1,)):
        chunks = chunk_width.narrower(chunks)
        assert chunks.widths == expected


@pytest.mark.parametrize("chunk", [0, (), (2, 1), (0, 3)])
def test_bad_chunks_are_errors(chunk: Any):
    with pytest.raises(ValueError, match=r"must be >= 1|at least 1 client must be trained"):
        simulate(
            fedavg(logistic(), local_training()),
            federation(),
            num_rounds=1,
            cohort_size=3,
            chunk=chunk,
        )


def test_chunks_that_are_asked_for_are_taken():
    simulation = simulate(
        fedavg(logistic(), local_training()),
        federation(),
        num_rounds=1,
        cohort_size=6,
        chunk=(1, 2, 5),
    )
    assert simulation.chunk == ((1, 2, 5),)
