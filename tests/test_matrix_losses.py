"""Losses on FSP matrices, singular vectors and spectral norms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import normal


def test_fsp_matrices_pool_the_taller_map():
    tall, low = normal(2, 5, 4, 3), normal(2, 2, 2, 6, seed=1)
    pooled = np.asarray(tall)[:, :4].reshape(2, 2, 2, 2, 2, 3).max((2, 4))
    expected = np.einsum("bhwc,bhwd->bcd", pooled, np.asarray(low)) / 4
    np.testing.assert_allclose(losses.fsp_matrix(tall, low), expected, rtol=1e-4, atol=1e-6)
    turned = losses.fsp_matrix(low, tall)
    np.testing.assert_allclose(turned, expected.transpose(0, 2, 1), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="one must be a multiple of the other"):
        losses.fsp_matrix(normal(1, 4, 4, 1), normal(1, 2, 1, 1))


@pytest.mark.parametrize("decomposition", ["svd", "eid"])
@pytest.mark.parametrize(("places", "channels"), [(9, 4), (4, 9), (4, 4), (1, 5), (5, 1)])
def test_singular_vectors_are_those_of_numpy(decomposition: Any, places: int, channels: int):
    x = normal(2, places, channels)
    values, vectors = losses.right_singular_vectors(x, 3, decomposition)
    kept = min(places, channels, 3)
    assert vectors.shape == (2, channels, kept)
    for i in range(2):
        _, expected, rows = np.linalg.svd(np.asarray(x[i], np.float64))
        np.testing.assert_allclose(values[i], expected[:kept], rtol=1e-3)
        np.testing.assert_allclose(np.abs(vectors[i].T), np.abs(rows[:kept]), atol=1e-3)
    peaks = np.abs(vectors).argmax(1, keepdims=True)
    assert (np.take_along_axis(np.asarray(vectors), peaks, 1) > 0).all()


@pytest.mark.parametrize(
    ("decomposition", "places", "channels"),
    [("svd", 9, 4), ("svd", 3, 7), ("eid", 9, 4), ("eid", 3, 7), ("eid", 5, 5)],
)
def test_singular_vectors_have_their_gradients(
    float64: None, decomposition: Any, places: int, channels: int
):
    x = normal(1, places, channels).astype(float)
    probe = normal(1, channels, 2, seed=1).astype(float)
    direction = normal(1, places, channels, seed=2).astype(float)

    def loss(x: jax.Array) -> jax.Array:
        values, vectors = losses.right_singular_vectors(x, 2, decomposition)
        return (vectors * probe).sum() + jnp.sin(values).sum()

    @jax.jit
    def slopes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        around = jax.vmap(loss)(jnp.stack([x + 1e-6 * direction, x - 1e-6 * direction]))
        return (around[0] - around[1]) / 2e-6, (jax.grad(loss)(x) * direction).sum()

    expected, seen = slopes(x)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_equal_singular_values_do_not_explode():
    x = np.eye(4, dtype=np.float32)[None] + 1e-6 * normal(1, 4, 4)
    for decomposition in ("svd", "eid"):

        def total(x: jax.Array, how: Any = decomposition) -> jax.Array:
            return losses.right_singular_vectors(x, 2, how)[1].sum()

        gradient = jax.jit(jax.grad(total))(x)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() < 1e4


def test_the_students_vectors_follow_the_teachers():
    vectors = np.linalg.qr(normal(1, 5, 5))[0]
    shuffled = vectors[:, :, [2, 0, 1]] * np.array([1, -1, -1], np.float32)
    seen = losses.aligned(shuffled, vectors[:, :, :2])
    np.testing.assert_allclose(seen, vectors[:, :, :2], atol=1e-6)
    student, teacher = ([normal(2, 4, 4, 3, seed=i + s) for i in range(2)] for s in (0, 2))
    values = losses.singular_distillation(student, teacher)
    scaled = losses.singular_distillation([5 * s for s in student], teacher)
    np.testing.assert_allclose(scaled, values, rtol=1e-3)
    weighed = losses.singular_distillation(student, teacher, count=2)
    assert (weighed > 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(np.array([1e-6, 1, 1e12], np.float32)))
def test_spectral_norms_are_those_of_numpy(seed: int, scale: float):
    matrices = np.abs(normal(2, 3, 5, seed=seed))
    expected = np.linalg.norm(np.asarray(matrices), ord=2, axis=(1, 2))
    seen = losses.spectral_norm(scale * matrices)
    np.testing.assert_allclose(seen, scale * expected, rtol=1e-3)
    signed = normal(2, 3, 5, seed=seed)
    largest = np.linalg.norm(np.asarray(signed), ord=2, axis=(1, 2))
    assert (losses.spectral_norm(signed, 1) <= largest * (1 + 1e-5)).all()


@pytest.mark.parametrize("side", [1, 2])
def test_alignment_is_that_of_the_transmitting_matrices(side: int):
    """Whether these are formed (many places) or only their factors are used."""
    maps = [np.abs(normal(2, side, side, 6, seed=i)) for i in range(4)]
    norms = [
        np.linalg.norm(np.asarray(losses.transmitting_matrix(*pair)), ord=2, axis=(1, 2))
        for pair in (maps[:2], maps[2:])
    ]
    seen = losses.lipschitz_alignment(tuple(maps[:2]), tuple(maps[2:]), 50)
    np.testing.assert_allclose(seen, np.square(norms[0] - norms[1]), rtol=1e-3, atol=1e-5)


def test_transmitting_matrices_average_uneven_blocks():
    first, second = normal(1, 5, 4, 2), normal(1, 3, 2, 3, seed=1)
    x = np.asarray(first)[0]
    rows = np.stack([x[a:b].mean(0) for a, b in ((0, 2), (1, 4), (3, 5))])
    small = np.stack([rows[:, a:b].mean(1) for a, b in ((0, 2), (2, 4))], axis=1)
    expected = np.einsum("ijc,ijd->cd", small, np.asarray(second)[0]) / 6
    seen = losses.transmitting_matrix(first, second)[0]
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-6)
