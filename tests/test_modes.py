"""Training and evaluation mode: flags of all usual names act, and layers without one are named."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from federations import FEATURES, federation
from flax import linen, nnx

from fedjax_kd.algorithms import fedavg
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import InputTypeError, collected_warnings
from fedjax_kd.local import local_training
from fedjax_kd.nn.calls import TRAIN_ARGUMENTS
from fedjax_kd.task import Task, from_linen, from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)


def warned_of(task: Task) -> list[str]:
    """The sharp edges of a simulation of this model."""
    with collected_warnings() as found:
        simulate(fedavg(task, FIT), federation((7, 5)), num_rounds=1, cohort_size=2, chunk=1)
    return found


class Net(linen.Module):
    """A Linen module with both kinds of layers, and any names of the flag."""

    drop: bool | None = None
    norm: bool | None = None

    def layers(self, x: jax.Array, still: bool) -> jax.Array:
        drop = still if self.drop is None else self.drop
        x = linen.Dropout(0.5, name="drop", deterministic=drop)(linen.Dense(8, name="in")(x))
        norm = still if self.norm is None else self.norm
        x = linen.BatchNorm(use_running_average=norm, name="norm")(x)
        return linen.Dense(3, name="out")(x)


def named(flag: str, still: str) -> type[Net]:
    """A module whose flag has this name, with ``still`` the expression that says evaluation."""
    source = f"def __call__(self, x, {flag}):\n    return self.layers(x, {still})"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return type("Named", (Net,), {"__call__": linen.compact(scope["__call__"])})


X = np.ones((1, FEATURES), np.float32)


@pytest.mark.parametrize("name", TRAIN_ARGUMENTS)
def test_names_of_the_flag(name: str):
    task = from_linen(named(f"{name}=False", f"not {name}" if TRAIN_ARGUMENTS[name] else name)(), X)
    for train in (True, False):
        assert [layer.acts for layer in task.layers(X, train)] == [train] * 2


def test_a_flag_acts():
    task = from_linen(named("is_train=False", "not is_train")(), X)
    model = task.init(jax.random.key(0))
    rows = np.tile(X, (16, 1)) * np.arange(16, dtype=np.float32)[:, None]
    logits, stats = task.apply(model, rows, jax.random.key(1))
    calm, same = task.apply(model, rows)
    assert not np.allclose(logits, calm)
    assert stats["batch_stats"]["norm"]["mean"].any()
    assert not same["batch_stats"]["norm"]["mean"].any()


def test_a_flag_of_another_name():
    dropped, normalised = warned_of(from_linen(named("phase=False", "not phase")(), X))
    assert "The dropout at drop drops nothing in training" in dropped
    assert "at norm uses its running statistics in training" in normalised


class Flagged(nnx.Module):
    """An NNX module that is told by an argument, or by an attribute of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(FEATURES, 3, rngs=rngs)
        self.is_training = False

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.drop(x, deterministic=not train)
        return self.head(x if self.is_training else 0 * x)


def test_flags_of_nnx_modules_are_set_too():
    task = from_nnx(Flagged)
    model = task.init(jax.random.key(0))
    logits, _ = task.apply(model, np.ones((64, FEATURES), np.float32), jax.random.key(1))
    assert len(np.unique(np.asarray(logits), axis=0)) > 1
    calm, _ = task.apply(model, np.ones((2, FEATURES), np.float32))
    np.testing.assert_array_equal(calm, 0)


class Deaf(nnx.Module):
    """An NNX module whose layers are told nothing."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(FEATURES, rngs=rngs)
        self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.0, rngs=rngs)])
        self.head = nnx.Linear(FEATURES, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(x, use_running_average=False)
        for drop in self.drops:
            x = drop(x, deterministic=True)
        return self.head(x)


def test_layers_of_nnx_that_are_told_nothing():
    found = warned_of(from_nnx(Deaf))
    assert len(found) == 2
    assert "The dropout at drops.0 drops nothing in training" in found[0]
    assert "at norm uses the batch's statistics in evaluation" in found[1]


@pytest.mark.parametrize("fixed", ["drop", "norm"])
def test_modes_that_are_fixed(fixed: str):
    module = named("train=False", "not train")(**{fixed: True})
    (found,) = warned_of(from_linen(module, X))
    assert f"at {fixed} " in found
    assert "in training" in found


def test_an_argument_that_nobody_gives():
    with pytest.raises(InputTypeError, match=r"Named.*without 'phase'.*`train`, or one of"):
        from_linen(named("phase", "not phase")(), X)
