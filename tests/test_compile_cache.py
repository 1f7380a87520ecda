"""Compiled programs are kept for Python as for commands, unless JAX was told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from federations import federation, logistic

import fedjax_kd as fk
from fedjax_kd.engine import compile_cache

FOLDER, SHORTEST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
SWITCH = "jax_enable_compilation_cache"


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """JAX as it is in a new process, and the folder that programs are to be kept in."""
    before = {name: getattr(jax.config, name) for name in (FOLDER, SHORTEST, SWITCH)}
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "ours"))
    monkeypatch.delenv(compile_cache.SHORTEST, raising=False)
    jax.config.update(FOLDER, None)
    jax.config.update(SHORTEST, 1.0)
    yield tmp_path / "ours"
    for name, value in before.items():
        jax.config.update(name, value)


def prepare() -> None:
    """What `train` and `sweep` begin with."""
    algorithm = fk.fedavg(logistic(), fk.local_training())
    fk.simulate(algorithm, federation(), num_rounds=1, cohort_size=2, chunk=1)


def test_training_from_python_keeps_programs(untouched: Path) -> None:
    assert getattr(jax.config, FOLDER) is None
    prepare()
    assert getattr(jax.config, FOLDER) == str(untouched)
    assert getattr(jax.config, SHORTEST) == 0.3
    assert untouched.is_dir()


@pytest.mark.parametrize(
    ("mine", "kept"),
    [
        ({FOLDER: "/somewhere/else"}, {FOLDER: "/somewhere/else", SHORTEST: 1.0}),
        ({SWITCH: False}, {FOLDER: None, SHORTEST: 1.0}),
        ({SHORTEST: 5.0}, {SHORTEST: 5.0}),
    ],
)
def test_settings_of_jax_stay(untouched: Path, mine: dict[str, Any], kept: dict[str, Any]) -> None:
    for name, value in mine.items():
        jax.config.update(name, value)
    prepare()
    assert {name: getattr(jax.config, name) for name in kept} == kept


def test_off_is_off(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.VARIABLE, "off")
    prepare()
    assert getattr(jax.config, FOLDER) is None
    assert not untouched.exists()
