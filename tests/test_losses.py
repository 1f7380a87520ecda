"""Losses against formulas written out in NumPy, and their edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd import losses


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(), (1,), (4,), (2, 3)]))
def test_cross_entropy_is_minus_the_log_of_the_label_probability(seed, more):
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(3, *more, 5))
    labels = random.integers(-1, 5, size=(3, *more))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, np.maximum(labels, 0)[..., None], -1)[..., 0]
    expected = np.where(labels == -1, 0, -np.log(chosen))
    values = losses.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_labels_may_be_small_integers(dtype):
    values = losses.cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3], dtype))
    np.testing.assert_allclose(values, np.log(4) * np.ones(2), rtol=1e-6)


def test_no_label_has_no_gradient():
    def loss(logits):
        return losses.cross_entropy(logits, jnp.array([-1, 1])).sum()

    gradient = jax.grad(loss)(jnp.array([[5.0, -5.0], [0.0, 0.0]]))
    np.testing.assert_allclose(gradient, [[0, 0], [0.5, -0.5]], atol=1e-6)


def test_huge_logits_give_finite_losses():
    values = losses.cross_entropy(jnp.array([[1e4, -1e4], [1e4, -1e4]]), jnp.array([0, 1]))
    np.testing.assert_allclose(values, [0, 2e4])


def test_squared_error_averages_over_features():
    predictions, targets = jnp.array([[[1.0, 2.0]], [[0.0, 0.0]]]), jnp.array([[[0.0, 0.0]]] * 2)
    np.testing.assert_allclose(losses.squared_error(predictions, targets), [2.5, 0])
    np.testing.assert_allclose(losses.squared_error(jnp.ones(3), jnp.zeros(3)), np.ones(3))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5, width=32), st.sampled_from([0, 1, 2])), min_size=1))
def test_masked_mean_is_the_weighted_mean(pairs):
    values, weights = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    expected = np.average(values, weights=weights) if weights.any() else 0.0
    result = losses.masked_mean(jnp.asarray(values), jnp.asarray(weights))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_an_empty_mask_gives_no_gradient_and_no_nan():
    gradient = jax.grad(lambda values: losses.masked_mean(values, jnp.zeros(2)))(jnp.ones(2))
    np.testing.assert_array_equal(gradient, np.zeros(2))


def test_label_weights_need_a_real_row_and_a_label():
    labels = jnp.array([[[0, -1]], [[1, 2]]], jnp.int32)
    weights = losses.label_weights(labels, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(weights, [[[1, 0]], [[0, 0]]])
    np.testing.assert_array_equal(losses.label_weights(jnp.array([255], "uint8"), jnp.ones(1)), [1])
