"""Decompositions of many matrices are those of each, and none is divided over a CPU's threads."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from fedjax_kd import MODELS
from fedjax_kd.components import low_rank
from fedjax_kd.components.class_statistics import square_roots
from fedjax_kd.losses import singular_distillation
from fedjax_kd.nn.decompositions import eigh, svd

STACKED = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
MAPS = [jax.random.normal(jax.random.key(i), (3, 2, 4, 4, 3)) for i in range(2)]


def gradient(maps: Array) -> Array:
    return jax.grad(lambda s: singular_distillation([s, s], [m[0] for m in MAPS]).sum())(maps)


def recurrent_model(key: Array) -> Array:
    model = MODELS["char_lstm"]((5,), 7, units=4)(nnx.Rngs(params=key))
    return jax.tree.leaves(nnx.state(model, nnx.Param))


STACKED_WORK = {
    "truncated": (jax.vmap(lambda x: low_rank.truncated(x, 0.9)), STACKED[0]),
    "square_roots": (jax.vmap(square_roots), STACKED.mT @ STACKED),
    "singular_distillation": (jax.vmap(gradient), MAPS[0]),
    "char_lstm": (jax.vmap(recurrent_model), jax.random.split(jax.random.key(0), 3)),
}


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_decompositions_put_the_matrix_together_again(axes: int) -> None:
    x = STACKED[(0,) * (2 - axes)]
    values, vectors = eigh(x.mT @ x)
    np.testing.assert_allclose((vectors * values[..., None, :]) @ vectors.mT, x.mT @ x, atol=1e-4)
    left, values, right = svd(x)
    np.testing.assert_allclose((left * values[..., None, :]) @ right, x, atol=1e-5)


@pytest.mark.parametrize("name", STACKED_WORK)
def test_cpus_are_given_one_matrix_at_a_time(name: str) -> None:
    work, inputs = STACKED_WORK[name]
    text = jax.jit(work).lower(inputs).as_text()
    given = re.findall(r"@lapack_.* : \(tensor<([\dx]+)xf32>", text)
    assert given
    assert {shape.count("x") for shape in given} == {1}, "a batch would wait for its own threads"
