"""Backdoors: who has the pattern, how often it succeeds, and what a defence makes of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command
from federations import SIZES, logistic
from wrapping import clients

from fedjax_kd.algorithms import fedavg
from fedjax_kd.components import attacks
from fedjax_kd.core import Pool
from fedjax_kd.data.backdoor import trigger_of, triggered
from fedjax_kd.local import local_training
from fedjax_kd.runs.folder import read_rows, read_summary
from fedjax_kd.wrappers import with_attack
from fedjax_kd.wrappers._backdoor import _poisoned_rows

LIARS = "attack:attack=backdoor,share=0.1,strength=5"


def pool_of(x: np.ndarray) -> Pool:
    """One client with all rows, of the classes 0, 1, 2, 0, ..."""
    count = len(x)
    rows, one = jnp.arange(count, dtype=jnp.int32), jnp.array([count], jnp.int32)
    return Pool(jnp.asarray(x), jnp.arange(count) % 3, rows, jnp.zeros(1, jnp.int32), one)


def test_the_pattern_is_a_bright_corner():
    x = np.random.default_rng(0).integers(0, 200, (4, 6, 6, 1)).astype(np.uint8)
    x[0, 0, 0] = 210
    trigger = trigger_of(pool_of(x), 2)
    stamped = np.asarray(trigger.stamp(jnp.asarray(x)))
    assert (stamped[:, 3:, 3:] == 210).all()
    assert (stamped[:, :3] == x[:, :3]).all()
    assert stamped.dtype == np.uint8


def test_rows_of_other_classes_tell_the_success():
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    found = triggered(pool_of(x), trigger_of(pool_of(x), 2))
    assert found.y.tolist() == [2] * 6
    np.testing.assert_array_equal(found.x[:, :2], x[np.arange(9) % 3 != 2, :2])
    assert (found.x[:, 2:] == x.max()).all()


def test_only_liars_have_the_pattern():
    lying = np.array([False, True, False, False, True, False])
    rows = np.asarray(_poisoned_rows(clients(), lying, 0.5))
    ends = np.cumsum([0, *SIZES])
    owner = (
        np.searchsorted(ends, np.asarray(clients().train.rows).argsort()[rows], side="right") - 1
    )
    assert set(owner.tolist()) == {4}, "client 1 has no examples"
    assert len(rows) == SIZES[4] // 2


def trained(folder: Path, *more: str) -> list[dict[str, Any]]:
    """The rows of a run."""
    options = ["--num-rounds", "30", "--eval-every", "15", "--quiet", "--with", *more]
    assert command("run", "fedavg", *options, "--out", str(folder)) == 0
    return read_rows(folder)


def test_it_succeeds_unless_there_is_a_defence(tmp_path: Path):
    """Digits, a tenth of the clients; Krum keeps it out, and accuracy stays."""
    attacked = trained(tmp_path / "a", LIARS)[-1]
    assert attacked["attack_success"] > 0.9
    assert read_summary(tmp_path / "a")["final_attack_success"] == attacked["attack_success"]
    for name, rule in {
        "none": "attack:attack=backdoor,share=0",
        "krum": "krum:malicious=3,select=5",
    }.items():
        around = [rule] if name == "none" else [rule, LIARS]
        last = trained(tmp_path / name, *around)[-1]
        assert last["attack_success"] < 0.2
        assert last["test_accuracy"] > 0.7


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"target": 3}, "there are 3 classes"),
        ({"store": object()}, {}, "not streamed ones"),
        ({"train": SimpleNamespace(x={"a": jnp.zeros(3)})}, {}, "of another form"),
    ],
)
def test_backdoors_that_cannot_be(changes: dict[str, Any], options: dict[str, Any], message: str):
    base, data = fedavg(logistic(), local_training()), clients()
    known = {"num_clients": 6, "num_classes": 3, "store": None, "train": data.train} | changes
    given: Any = SimpleNamespace(**known)
    with pytest.raises(ValueError, match=message):
        with_attack(base, given, attack="backdoor", **options)


def test_the_share_of_liars_is_known_before():
    base = fedavg(logistic(), local_training())

    def swept(share: jax.Array) -> jax.Array:
        return jnp.zeros(len(with_attack(base, clients(), attack="backdoor", share=share)))

    with pytest.raises(ValueError, match="cannot be swept"):
        jax.jit(swept)(jnp.float32(0.1))
    assert attacks.liars(10, 0.1, 0).sum() == 1
