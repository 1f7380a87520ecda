"""Pools: equal to Flax's, without a reduction over windows where these do not overlap."""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import normal

from fedjax_kd.nn import avg_pool, max_pool


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(3, 7), min_size=1, max_size=3),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 3)),
    st.sampled_from(["VALID", "SAME"]),
)
def test_pools_equal_flax(sides, window, stride, padding):
    x, rank = normal(2, *sides, 3), len(sides)
    window, strides = (window,) * rank, None if stride is None else (stride,) * rank
    for ours, theirs in [(max_pool, linen.max_pool), (avg_pool, linen.avg_pool)]:
        with jax.numpy_dtype_promotion("standard"):
            expected = jax.jit(lambda x, pool=theirs: pool(x, window, strides, padding))(x)
        np.testing.assert_allclose(ours(x, window, strides, padding), expected, rtol=1e-5)


def test_windows_apart_need_no_window_reduction():
    def jaxpr(strides):
        pool = partial(max_pool, window_shape=(2, 2), strides=strides)
        return str(jax.make_jaxpr(jax.grad(lambda x: pool(x).sum()))(normal(1, 5, 4, 1)))

    assert "reduce_window" not in jaxpr((2, 2))
    assert "reduce_window" in jaxpr((1, 1))


def test_pool_gradients_equal_flax_where_there_are_no_ties():
    x = normal(2, 5, 6, 3)
    for ours, theirs in [(max_pool, linen.max_pool), (avg_pool, linen.avg_pool)]:
        with jax.numpy_dtype_promotion("standard"):
            gradients = [
                jax.grad(lambda x, pool=pool: (pool(x, (2, 3), (2, 3)) ** 2).sum())(x)
                for pool in (ours, theirs)
            ]
        np.testing.assert_allclose(*gradients, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7))
def test_derivatives_of_two_by_two_pools_equal_those_of_any_other(height, width):
    x = jnp.asarray(normal(3, 2, height, width, 2))
    x = x.at[:, :, :2, :2].set(1.0)  # a tie: its gradient is shared
    along, again = normal(*x.shape, seed=1), normal(*x.shape, seed=2)

    def plain(x):
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        return x.reshape(2, height // 2, 2, width // 2, 2, 2).max(axis=(2, 4))

    def derivatives(pool, x, along, again):
        def loss(x):
            return jnp.sin(pool(x)).sum()

        gradient = jax.grad(loss)
        second = jax.grad(lambda x: (gradient(x) * along).sum())
        forward = jax.jvp(pool, (x,), (along,))
        return forward, gradient(x), second(x), jax.jvp(second, (x,), (again,))[1]

    ours, theirs = (
        jax.jit(jax.vmap(partial(derivatives, pool)))(x, along, again)
        for pool in (partial(max_pool, window_shape=(2, 2), strides=(2, 2)), plain)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)
