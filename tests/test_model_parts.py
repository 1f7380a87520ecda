"""Which part of a model is what: normalisation layers by type, the head by what features use."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from federations import CLASSES, FEATURES, gap, logistic
from flax import linen, nnx

from fedjax_kd.components import model_parts
from fedjax_kd.core import Variables
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_linen, from_nnx

X = jnp.ones((2, FEATURES))


class Hidden(nnx.Module):
    """Normalisation layers whose names say nothing, and a layer whose name lies."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.bn_dense = nnx.Linear(FEATURES, 6, rngs=rngs)
        self.a = nnx.Sequential(nnx.BatchNorm(6, rngs=rngs), nnx.LayerNorm(6, rngs=rngs))
        self.b = nnx.List([nnx.GroupNorm(6, 2, rngs=rngs), nnx.RMSNorm(6, rngs=rngs)])
        self.again = self.b[1]
        self.last = nnx.Linear(6, CLASSES, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        x = self.a(self.bn_dense(x))
        return self.again(self.b[1](self.b[0](x)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x))


class LinenHidden(linen.Module):
    """The same as a Linen module, one layer hidden in another's class."""

    def setup(self) -> None:
        self.bn_dense = linen.Dense(6)
        self.a = linen.Sequential([linen.BatchNorm(use_running_average=True), linen.LayerNorm()])
        self.b = [linen.GroupNorm(2), linen.RMSNorm()]
        self.last = linen.Dense(CLASSES)

    def features(self, x: jax.Array) -> jax.Array:
        x = self.a(self.bn_dense(x))
        return self.b[1](self.b[0](x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x))


def tasks() -> list[Task]:
    return [from_nnx(Hidden, example_x=X), from_linen(LinenHidden(), X)]


def chosen(part: Variables) -> set[str]:
    """Where a part has values."""
    leaves = jax.tree_util.tree_leaves_with_path(part)
    return {jax.tree_util.keystr(path) for path, here in leaves if here}


NNX = {
    "batch": {
        ".params['a']['layers'][0]['bias']",
        ".params['a']['layers'][0]['scale']",
        ".stats['a']['layers'][0]['mean']",
        ".stats['a']['layers'][0]['var']",
    },
    "layer": {".params['a']['layers'][1]['bias']", ".params['a']['layers'][1]['scale']"},
    "group": {".params['b'][0]['bias']", ".params['b'][0]['scale']"},
    "rms": {".params['again']['scale']"},
}
LINEN = {
    "batch": {
        ".params['a']['layers_0']['bias']",
        ".params['a']['layers_0']['scale']",
        ".stats['batch_stats']['a']['layers_0']['mean']",
        ".stats['batch_stats']['a']['layers_0']['var']",
    },
    "layer": {".params['a']['layers_1']['bias']", ".params['a']['layers_1']['scale']"},
    "group": {".params['b_0']['bias']", ".params['b_0']['scale']"},
    "rms": {".params['b_1']['scale']"},
}


@pytest.mark.parametrize(("number", "expected"), [(0, NNX), (1, LINEN)], ids=["nnx", "linen"])
def test_normalisation_is_found_by_type(number: int, expected: dict[str, set[str]]):
    task = tasks()[number]
    model = task.init(jax.random.key(0))
    assert jax.tree.structure(task.norm_kinds()) == jax.tree.structure(model)
    for kind, places in expected.items():
        assert chosen(model_parts.normalisation(task, kind)) == places
    assert chosen(model_parts.normalisation(task)) == set().union(*expected.values())


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("number", [0, 1], ids=["nnx", "linen"])
def test_the_head_is_what_features_do_not_use(number: int, precision: Any):
    task = [
        from_nnx(Hidden, example_x=X, precision=precision),
        from_linen(LinenHidden(), X, precision=precision),
    ][number]
    assert chosen(model_parts.head(task)) == {
        ".params['last']['bias']",
        ".params['last']['kernel']",
    }


@pytest.mark.parametrize("name", ["cnn_small", "resnet8", "lenet"])
def test_heads_of_our_models(name: str):
    task = from_nnx(MODELS[name]((28, 28), 10), example_x=jnp.zeros((1, 28, 28)))
    assert chosen(model_parts.head(task)) == {
        ".params['head']['bias']",
        ".params['head']['kernel']",
    }


def test_a_residual_shortcut_is_normalised_too():
    task = from_nnx(MODELS["resnet18"]((8, 8), 3, norm="batch", groups=2))
    found = chosen(model_parts.normalisation(task, "batch"))
    assert ".stats['blocks'][2]['norm3']['mean']" in found
    assert len(found) == 4 * 20


def test_split_and_join():
    model = logistic(5).init(jax.random.key(0))
    part = jax.tree.map(lambda a: a.ndim == 2, model)
    rest, own = model_parts.partition(part, model)
    assert [a.ndim for a in jax.tree.leaves(rest)] == [1, 1]
    assert [a.ndim for a in jax.tree.leaves(own)] == [2, 2]
    assert (
        gap(model_parts.combine(rest, own), model)
        == gap(model_parts.combine(own, rest), model)
        == 0
    )


class Plain(nnx.Linear):
    """A model without features."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(FEATURES, CLASSES, rngs=rngs)


def test_what_cannot_be_told_is_said():
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        model_parts.head(from_nnx(Hidden))
    with pytest.raises(TypeError, match="Plain has no method 'features'"):
        model_parts.head(from_nnx(Plain, example_x=X))
    with pytest.raises(ValueError, match="no batch normalisation layer"):
        model_parts.normalisation(from_nnx(MODELS["resnet8"]((8, 8), 3)), "batch")
    with pytest.raises(ValueError, match="no normalisation layer"):
        model_parts.normalisation(from_nnx(Plain))
    with pytest.raises(ValueError, match="does not know which values"):
        model_parts.normalisation(from_nnx(Plain)._replace(norm_kinds=None))
