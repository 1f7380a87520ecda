"""Dense layers: equal to lax's to any order; few rows give a sum of outer products on CPUs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from vectors import normal

from fedjax_kd.core import Batch
from fedjax_kd.nn.dense import dot_general
from fedjax_kd.task import from_linen, from_nnx

NUMBERS = (((1,), (0,)), ((), ()))


def derivatives(product, x, kernel):
    """Value, gradients, a derivative forward, and second derivatives in both orders."""

    def loss(x, kernel):
        return jnp.sin(product(x, kernel, NUMBERS)).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    along = (normal(*x.shape, seed=7), normal(*kernel.shape, seed=8))

    def part(x, kernel):
        return sum((g * t).sum() for g, t in zip(gradient(x, kernel), along, strict=True))

    return (
        loss(x, kernel),
        gradient(x, kernel),
        jax.jvp(loss, (x, kernel), along)[1],
        jax.jvp(gradient, (x, kernel), along)[1],
        jax.grad(part, argnums=(0, 1))(x, kernel),
    )


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 17), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_all_derivatives_equal_those_of_lax(rows, inputs, outputs, stacked):
    lead = (3,) if stacked else ()
    x, kernel = normal(*lead, rows, inputs), normal(*lead, inputs, outputs, seed=1)
    runs = [partial(derivatives, product) for product in (dot_general, lax.dot_general)]
    ours, theirs = (jax.jit(jax.vmap(run) if stacked else run)(x, kernel) for run in runs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4), ours, theirs)


def lowered_gradient(rows, platform="cpu"):
    def loss(kernel, x):
        return jnp.sin(dot_general(x, kernel, NUMBERS)).sum()

    shapes = normal(4, 5), normal(rows, 4, seed=1)
    traced = jax.jit(jax.grad(loss)).trace(*shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("rows", "platform", "products"), [(16, "cpu", 1), (17, "cpu", 2), (16, "tpu", 2)]
)
def test_only_the_gradient_of_few_rows_is_no_product_and_only_on_cpus(rows, platform, products):
    assert lowered_gradient(rows, platform).count("stablehlo.dot_general") == products


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x)


@pytest.mark.parametrize(
    "task",
    [
        from_linen(Dense(), jnp.ones((1, 4))),
        from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs)),
    ],
    ids=["linen", "nnx"],
)
def test_ordinary_dense_layers_of_users_have_it(task):
    batch = Batch(normal(5, 4), jnp.zeros(5, jnp.int32), jnp.ones(5))
    variables = task.init(jax.random.key(0))

    def loss(params):
        return task.loss(variables._replace(params=params), batch, jax.random.key(1))[0]

    text = jax.jit(jax.grad(loss)).lower(variables.params).as_text()
    assert text.count("stablehlo.dot_general") == 1
