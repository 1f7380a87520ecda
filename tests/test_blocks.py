"""Blocks of rounds: evaluation inside, clients streamed from disk, and too little memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from federations import SIZES, dataset, federation, gap, logistic

from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.data import open_store, pack
from fedjax_kd.data.federation import streamed
from fedjax_kd.engine import blocks as engine_blocks
from fedjax_kd.engine import memory
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.block_inputs import draw_inputs, largest_window
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.train import Result, blocks, train

FIT = local_training(client_lr=0.1, batch_size=4)


def assert_alike(one: Result, other: Result, *, but: set[str] = frozenset()) -> None:
    """The same rows and the same state."""
    assert gap(one.state, other.state) < 1e-6
    assert [row["round"] for row in one.history] == [row["round"] for row in other.history]
    for row, again in zip(one.history, other.history, strict=True):
        assert row.keys() - but == again.keys() - but, row["round"]
        kept = sorted(row.keys() - but)
        np.testing.assert_allclose([row[k] for k in kept], [again[k] for k in kept], atol=1e-5)


@pytest.mark.parametrize(
    ("num_rounds", "block", "engine"),
    [
        (8, 6, "jit"),
        *(pytest.param(*c, marks=pytest.mark.thorough) for c in ((6, 6, "jit"), (5, 4, "python"))),
    ],
)
def test_evaluation_inside_a_block_is_that_between_blocks(num_rounds: int, block: int, engine: Any):
    options = {"num_rounds": num_rounds, "cohort_size": 3, "eval_every": 2, "engine": engine}
    between = train(scaffold(logistic(), FIT), federation(), **options)
    inside = train(scaffold(logistic(), FIT), federation(), rounds_per_dispatch=block, **options)
    evaluated = [row["round"] for row in between.history if "test_accuracy" in row]
    assert evaluated == sorted({*range(0, num_rounds, 2), num_rounds})
    assert_alike(between, inside)


@pytest.mark.parametrize("asked", [0, -1, 3, 4, 9])
def test_blocks_that_do_not_fit_evaluation_are_errors(asked: int):
    with pytest.raises(ValueError, match=rf"rounds_per_dispatch is {asked}, but must"):
        simulate(
            fedavg(logistic(), FIT),
            federation(),
            num_rounds=6,
            cohort_size=2,
            eval_every=6 if asked != 3 else 2,
            rounds_per_dispatch=asked,
        )


def parts(data: Any) -> list[np.ndarray]:
    """The clients of `federation`, as a partitioner gives them."""
    ends = np.cumsum([0, *SIZES])
    return [np.arange(a, b) for a, b in pairwise(ends)]


@pytest.mark.parametrize(
    "block", [4, *(pytest.param(b, marks=pytest.mark.thorough) for b in (1, 2))]
)
def test_streamed_clients_train_like_resident_ones(tmp_path: Path, block: int):
    pack(tmp_path / "store", dataset(sum(SIZES)), parts)
    stream = streamed(open_store(tmp_path / "store"))
    options = {"num_rounds": 5, "cohort_size": 3, "eval_every": 4, "dropout_rate": 0.2}
    resident = train(scaffold(logistic(), FIT), federation(), **options)
    options["rounds_per_dispatch"] = block
    again = train(scaffold(logistic(), FIT), stream, **options)
    own = {f"client_accuracy_{k}" for k in ("mean", "std", "worst_10", "min", "max")}
    own |= {key for key in resident.history[0] if key.startswith("client_")}
    assert_alike(resident, again, but=own)
    assert not any(key.startswith("client_") for key in again.history[0])


def test_a_streamed_training_is_compiled_once_and_resumes_to_the_same_bits(tmp_path: Path):
    pack(tmp_path / "store", dataset(sum(SIZES)), parts)
    stream = streamed(open_store(tmp_path / "store"))
    traced = []

    def counting(algorithm: Any) -> Any:
        def client_update(*args: Any) -> Any:
            traced.append(1)
            return algorithm.client_update(*args)

        return algorithm._replace(client_update=client_update)

    simulation = simulate(
        counting(fedavg(logistic(), FIT)), stream, num_rounds=8, cohort_size=2, eval_every=2
    )
    traced.clear()
    states, after_first = [], 0
    for progress in blocks(simulation, initial_state(simulation)):
        states.append(jax.tree.map(np.array, progress.state))
        after_first = after_first or (len(traced) if progress.finished else 0)
    assert len(traced) == after_first > 0
    (*_, last) = blocks(simulation, states[2], 4)
    assert gap(last.state, states[-1]) == 0


def test_a_store_without_test_set_is_an_error(tmp_path: Path):
    store = pack(tmp_path / "store", dataset(sum(SIZES)), parts)
    with pytest.raises(ValueError, match="has no test set"):
        streamed(replace(store, test=None))


def test_states_of_too_many_clients_are_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free", lambda: 100)
    with pytest.raises(ValueError, match=r"6 clients keep 0\.0 GiB between rounds"):
        simulate(scaffold(logistic(), FIT), federation(), num_rounds=1, cohort_size=2)


@pytest.mark.parametrize("fails", ["compile", "run"])
def test_too_little_memory_narrows_the_chunks(monkeypatch: pytest.MonkeyPatch, fails: str):
    options = {"num_rounds": 4, "cohort_size": 6, "eval_every": 2}
    expected = train(scaffold(logistic(), FIT), federation(), **options, chunk=1)
    real, widths = engine_blocks._run, []

    def check(program: Any) -> None:
        if fails == "compile" and len(widths) < 2:
            widths.append(program)
            raise memory.TooLargeError("no room")

    def run(program: Any, s: Any, state: Any, given: Any) -> Any:
        if fails == "run" and s.chunk[0][-1] > 1:
            jax.tree.map(lambda a: a.delete(), state)  # as a donated input may be gone
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return real(program, s, state, given)

    monkeypatch.setattr(memory, "check_fits", check)
    monkeypatch.setattr(engine_blocks, "_run", run)
    with pytest.warns(UserWarning, match="no memory for chunks of .* going on with"):
        result = train(scaffold(logistic(), FIT), federation(), **options, chunk=6)
    assert_alike(expected, result, but={"steps_computed"})


def test_no_memory_for_a_single_client_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def check(program: Any) -> None:
        raise memory.TooLargeError("no room")

    monkeypatch.setattr(memory, "check_fits", check)
    with pytest.raises(memory.TooLargeError, match="no memory to train one client at a time"):
        train(fedavg(logistic(), FIT), federation(), num_rounds=1, cohort_size=2, chunk=1)


def test_a_failure_that_other_processes_wait_for_is_not_tried_again():
    tried = []

    def attempt(width: int) -> None:
        tried.append(width)
        raise memory.NoRetryError("the others wait")

    with pytest.raises(memory.NoRetryError, match="the others wait"):
        memory.narrow_until_it_fits(attempt, 8, lambda w: w // 2, lanes=int, named="{} clients")
    assert tried == [8]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch):
    def check(program: Any) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(memory, "check_fits", check)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        train(fedavg(logistic(), FIT), federation(), num_rounds=1, cohort_size=2, chunk=2)


def test_a_program_that_cannot_fit_is_noticed_before_it_runs(monkeypatch: pytest.MonkeyPatch):
    program = jax.jit(lambda x: x @ x.T).lower(np.ones((512, 8), np.float32)).compile()
    memory.check_fits(program)
    assert memory.needed(program) >= 512 * 512 * 4
    monkeypatch.setattr(memory, "free", lambda: 512 * 512)
    with pytest.raises(memory.TooLargeError, match="needs 1 MiB, but 0 MiB are free"):
        memory.check_fits(program)


@pytest.mark.parametrize("chunk", [(1, 2), pytest.param(1, marks=pytest.mark.thorough)])
def test_each_device_is_given_its_own_clients(tmp_path: Path, chunk: Any):
    pack(tmp_path / "store", dataset(sum(SIZES)), parts)
    stream = streamed(open_store(tmp_path / "store"))
    options = {"num_rounds": 5, "cohort_size": 3, "eval_every": 4, "rounds_per_dispatch": 2}
    alone = simulate(scaffold(logistic(), FIT), stream, **options)
    divided = options | {"mesh": make_mesh(2), "chunk": chunk}
    both = simulate(scaffold(logistic(), FIT), stream, **divided)
    room = largest_window(both, 0)
    assert room.rows < largest_window(alone, 0).rows
    given = draw_inputs(both, 0, room)
    slots = np.split(np.asarray(given.placements[0].slots), 2, axis=1)
    windows = given.resident.pool
    assert [shard.data.shape[0] for shard in windows.x.addressable_shards] == [room.rows] * 2
    held = np.split(np.asarray(windows.ids), 2)
    for sitting, ids in zip(slots, held, strict=True):
        assert set(ids[ids < len(SIZES)]) == set(sitting.ravel()) - {len(SIZES)}
    assert_alike(
        train(scaffold(logistic(), FIT), stream, **options),
        train(scaffold(logistic(), FIT), stream, **divided),
        but={"steps_computed"},
    )
