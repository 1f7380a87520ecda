"""Autotuning: when measuring stops, what is remembered, and under which name."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from federations import federation, logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.engine import autotune, compile_cache, memory
from fedjax_kd.engine.autotune import Measured
from fedjax_kd.engine.client_program import client_program
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import local_training
from fedjax_kd.nn.native import library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path))
    return tmp_path


def test_small_losses_do_not_end_the_measurement():
    costs = {1: 2.0, 2: 2.1, 4: 1.0, 8: 1.2, 16: 0.1}
    assert list(autotune.measure_growing(costs, lambda w: Measured(costs[w]))) == [1, 2, 4, 8]


def test_too_little_memory_ends_the_measurement_and_other_errors_do_not():
    def probe(width: int, error: str = "RESOURCE_EXHAUSTED") -> Measured:
        if width == 4:
            raise jax.errors.JaxRuntimeError(error)
        return Measured(1.0)

    assert autotune.measure_growing([1, 2, 4, 8], probe) == {1: 1.0, 2: 1.0}
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        autotune.measure_growing([1, 2, 4, 8], lambda width: probe(width, "something else"))


def test_widths_that_are_predicted_to_take_half_the_memory_are_not_tried(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(memory, "free", lambda: 1000)
    costs = autotune.measure_growing([1, 2, 4, 8], lambda width: Measured(1.0, 200 * width))
    assert list(costs) == [1, 2]


def test_arguments_are_made_anew_for_every_call():
    consuming = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert autotune.least_seconds(consuming, lambda: (jnp.zeros(3),), repeats=3) > 0


def test_a_measurement_is_remembered(cache: Path):
    assert autotune.remembered_costs("name", lambda: {1: 0.5, 4: 0.7}) == {1: 0.5, 4: 0.7}
    assert autotune.remembered_costs("name", lambda: pytest.fail("measured again")) == {
        1: 0.5,
        4: 0.7,
    }
    assert autotune.remembered_costs("other", dict) == {}
    (file,) = (cache / "chunks").iterdir()
    file.write_text("{")
    assert autotune.remembered_costs("name", lambda: {1: 0.1}) == {1: 0.1}


def test_nothing_is_remembered_where_there_is_no_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(compile_cache.VARIABLE, "off")
    calls = []
    for _ in range(2):
        autotune.remembered_costs("name", lambda: calls.append(1) or {1: 0.5})
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_to_costs_the_measurement_only(cache: Path):
    (cache / "chunks").write_text("a file where the folder should be")
    assert autotune.remembered_costs("name", lambda: {1: 0.5}) == {1: 0.5}


def test_the_same_program_has_the_same_name_and_others_have_others():
    pool, names = federation().train, set()
    for batch_size, about in ((4, 1), (4, 1), (5, 1), (4, 2)):
        algorithm = fedavg(logistic(), local_training(batch_size=batch_size))
        program = client_program(algorithm, check_algorithm(algorithm, pool), pool).lowered
        names.add(autotune.measurement_name(program, pool, about))
    assert len(names) == 3


def test_widths_measured_with_another_convolution_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    pool, names = federation().train, set()
    algorithm = fedavg(logistic(), local_training(batch_size=4))
    program = client_program(algorithm, check_algorithm(algorithm, pool), pool).lowered
    for described in ("native (avx2)", "products"):
        monkeypatch.setattr(library, "description", lambda described=described: described)
        names.add(autotune.measurement_name(program, pool))
    assert len(names) == 2
