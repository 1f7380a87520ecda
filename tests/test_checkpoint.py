"""States survive on disk exactly, and wrong or damaged checkpoints are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_kd.core import State
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.runs import checkpoint, config
from fedjax_kd.runs.build import build as simulation_of

DATA = config.DataConfig(partition="iid", num_clients=4)
TRAINING = config.TrainingConfig(num_rounds=2, cohort_size=2)


def build(method: str = "scaffold", hidden: tuple[int, ...] = (3,)) -> Simulation:
    options = {"hidden": hidden}
    return simulation_of(
        config.Config(method, data=DATA, model="mlp", model_options=options, training=TRAINING)
    )


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return build()


@pytest.fixture(scope="module")
def saved(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for finished in (0, 2, 4):
        checkpoint.save(folder, numbered(initial_state(simulation), finished), finished)
    return folder


def numbered(state: Any, number: int) -> Any:
    return jax.tree.map(lambda a: a + jnp.asarray(number, a.dtype), state)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        plain = jax.random.key_data if is_key else np.asarray
        np.testing.assert_array_equal(plain(x), plain(y))


def test_the_newest_is_restored_and_two_are_kept(simulation: Simulation, saved: Path) -> None:
    assert checkpoint.finished_rounds(saved) == [2, 4]
    state, finished = checkpoint.restore(saved, simulation)
    assert finished == 4
    assert_same(state, numbered(initial_state(simulation), 4))
    state, finished = checkpoint.restore(saved, simulation, 2)
    assert finished == 2
    assert_same(state, numbered(initial_state(simulation), 2))


class Odd(NamedTuple):
    """Everything that a server may hold."""

    key: jax.Array
    half: jax.Array
    nothing: jax.Array
    flags: jax.Array
    opt: Any
    empty: tuple


def test_every_kind_of_leaf_survives(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"w": jnp.linspace(0, 1, 7), "b": jnp.float32(0.1)}
    server = Odd(
        key=jax.random.key(3),
        half=jnp.asarray([0.1, np.inf], jnp.bfloat16),
        nothing=jnp.zeros((0, 3), jnp.int32),
        flags=jnp.array([True, False]),
        opt=optax.chain(optax.clip(1.0), optax.adam(0.1)).init(params),
        empty=(),
    )
    state = State(server, ((), {"a": (params, None)}))
    monkeypatch.setattr(checkpoint, "initial_state", lambda simulation, places: state)
    checkpoint.save(tmp_path, state, 1)
    assert_same(checkpoint.restore(tmp_path, simulation)[0], state)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"hidden": (5,)}, r"float32\[4,3,10\] instead of float32\[4,5,10\]"),
        ({"hidden": (3, 3)}, r"absent instead of"),
        ({"method": "fedavg"}, r"server\.model.* it is absent instead of float32"),
    ],
)
def test_another_model_or_method_is_refused(
    saved: Path, other: dict[str, Any], difference: str
) -> None:
    with pytest.raises(TypeError, match=difference):
        checkpoint.restore(saved, build(**other))


def test_another_format_is_refused(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(tmp_path, initial_state(simulation), 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has format 99, but .* reads format 1: use"):
        checkpoint.restore(tmp_path, simulation)


def test_no_checkpoint_is_said(simulation: Simulation, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint:"):
        checkpoint.restore(tmp_path, simulation)
    with pytest.raises(ValueError, match="no checkpoint of round 3"):
        checkpoint.restore(saved, simulation, 3)
    assert checkpoint.finished_rounds(tmp_path / "absent") == []
    assert not (tmp_path / "absent").exists()


def test_damage_is_said_and_the_one_before_is_used(
    simulation: Simulation, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "damaged")
    blobs = [p for p in (folder / "4/state").rglob("*") if p.is_file() and p.parent.name == "d"]
    assert blobs
    for path in blobs:
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"4 is damaged .* remove that folder"):
        checkpoint.restore(folder, simulation)
    shutil.rmtree(folder / "4")
    assert checkpoint.restore(folder, simulation)[1] == 2


def test_later_ones_are_dropped(simulation: Simulation, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "copy")
    checkpoint.drop(folder, after=2)
    assert checkpoint.finished_rounds(folder) == [2]
    checkpoint.drop(folder, after=-1)
    assert checkpoint.finished_rounds(folder) == []


def test_a_folder_that_cannot_be_made_is_an_os_error(
    simulation: Simulation, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file/checkpoints", initial_state(simulation), 1)
