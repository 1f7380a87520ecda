"""Losses on the relations between examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from vectors import normal


def rotated(x: np.ndarray) -> np.ndarray:
    """Turned, enlarged and moved: relations stay."""
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(x.shape[1],) * 2))
    return 3 * x @ turn.astype(np.float32)


RELATIONS = [losses.relational_distances, losses.relational_angles, losses.similarity_preserving]


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_do_not_see_how_features_are_turned(loss: Any):
    student, teacher = normal(5, 4), normal(5, 6, seed=1)
    np.testing.assert_allclose(loss(student, rotated(student)), 0, atol=1e-6)
    assert (loss(student, teacher) > 1e-3).all()
    np.testing.assert_allclose(
        loss(rotated(student), teacher), loss(student, teacher), rtol=1e-3, atol=1e-6
    )
    if loss is not losses.similarity_preserving:
        np.testing.assert_allclose(loss(student, student + 7), 0, atol=1e-5)


@pytest.mark.parametrize("loss", RELATIONS)
def test_filling_rows_are_nobodys_partners(loss: Any):
    student, teacher = normal(5, 4), normal(5, 6, seed=1)
    alone = loss(student[:3], teacher[:3])
    mask = np.array([1, 1, 1, 0, 0], np.float32)
    filled = loss(student, teacher, mask)
    np.testing.assert_allclose(filled[:3], alone, rtol=1e-5)
    np.testing.assert_allclose(losses.masked_mean(filled, mask), alone.mean(), rtol=1e-5)
    assert np.isfinite(loss(student, teacher, np.zeros(5, np.float32))).all()


def huber(gap: np.ndarray) -> np.ndarray:
    size = np.abs(gap)
    return np.where(size < 1, size**2 / 2, size - 0.5)


@pytest.mark.parametrize("loss", RELATIONS)
def test_a_batch_of_one_has_no_relations(loss: Any):
    x = normal(1, 4), normal(1, 6, seed=1)
    value, gradient = jax.jit(jax.value_and_grad(lambda *x: loss(*x).sum()))(*x)
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_relations_are_those_of_numpy():
    student, teacher = (np.asarray(normal(4, 3, seed=s), np.float64) for s in (0, 1))

    def distances(x: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return apart / apart[apart > 0].mean()

    def angles(x: np.ndarray) -> np.ndarray:
        towards = x[None] - x[:, None]
        sizes = np.linalg.norm(towards, axis=-1, keepdims=True)
        towards = towards / np.where(sizes == 0, 1, sizes)
        return np.einsum("ijd,ikd->ijk", towards, towards)

    def similarities(x: np.ndarray) -> np.ndarray:
        rows = x @ x.T
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    given = jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    seen = losses.relational_distances(*given).mean()
    np.testing.assert_allclose(
        seen, huber(distances(student) - distances(teacher)).mean(), rtol=1e-4
    )
    seen = losses.relational_angles(*given).mean()
    np.testing.assert_allclose(seen, huber(angles(student) - angles(teacher)).mean(), rtol=1e-4)
    seen = losses.similarity_preserving(*given).mean()
    expected = np.square(similarities(student) - similarities(teacher)).mean()
    np.testing.assert_allclose(seen, expected, rtol=1e-4)


def test_token_relations_are_comparable_over_widths():
    student, teacher = normal(2, 5, 4), normal(2, 5, 9, seed=1)
    relations = [losses.token_relations(x, x) for x in (student, teacher)]
    np.testing.assert_allclose(relations[0][0, 1, 2] * 2, student[0, 1] @ student[0, 2], rtol=1e-5)
    values = losses.kl_divergence(*relations)
    assert values.shape == (2, 5)
    assert (values > 0).all()
