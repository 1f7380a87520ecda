"""Mixup: who is mixed with whom, and by how much."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd import losses as plain
from fedjax_kd.core import Batch


def batch_of(mask: list[int]) -> Batch:
    """Row i holds the number i."""
    numbers = np.arange(len(mask), dtype=np.int32)
    return Batch(numbers[:, None].astype(np.float32), numbers, np.array(mask, np.float32))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_real_rows_are_mixed_with_real_rows(seed: int, mask: list[int]):
    batch = batch_of(mask)
    mixed = losses.mixup(jax.random.key(seed), batch, 0.4)
    real = np.flatnonzero(mask)
    partners = np.asarray(mixed.partner_y)
    assert sorted(partners[real]) == real.tolist()
    filling = np.flatnonzero(np.array(mask) == 0)
    np.testing.assert_array_equal(partners[filling], filling)
    share = float(mixed.share)
    assert 0 <= share <= 1
    expected = share * np.arange(6) + (1 - share) * partners
    np.testing.assert_allclose(mixed.batch.x[:, 0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mixed.batch.y, batch.y)


def test_partners_are_as_likely_and_shares_have_the_beta_distribution():
    batch, keys = batch_of([1, 1, 1, 0]), jax.random.split(jax.random.key(0), 1500)
    gammas = np.repeat(np.array([0.2, 5.0], np.float32), 750)
    mixed = jax.jit(jax.vmap(plain.mixup, (0, None, 0)))(keys, batch, gammas)
    counts = [np.bincount(partner, minlength=4) for partner in np.asarray(mixed.partner_y).T]
    assert (np.abs(np.array(counts)[:3, :3] - 500) < 90).all()
    shares = np.asarray(mixed.share).reshape(2, 750)
    np.testing.assert_allclose(shares.mean(1), 0.5, atol=0.06)
    np.testing.assert_allclose(shares.var(1), 1 / (4 * (2 * gammas[::750] + 1)), rtol=0.15)


def test_no_strength_mixes_nothing_even_traced():
    batch = batch_of([1, 1, 1, 1, 1, 0])
    mixed = losses.mixup(jax.random.key(0), batch, 0.0)
    assert float(mixed.share) == 1
    np.testing.assert_array_equal(mixed.batch.x, batch.x)


def test_bytes_stay_bytes():
    x = jnp.array([[0, 10], [255, 11]], jnp.uint8)
    batch = Batch(x, jnp.array([0, 1]), jnp.ones(2))
    mixed = losses.mixed_with(batch, jnp.array([1, 0]), jnp.array(0.25))
    np.testing.assert_array_equal(mixed.batch.x, np.array([[191, 11], [64, 10]], np.uint8))
    assert mixed.batch.x.dtype == jnp.uint8


def test_the_loss_is_mixed_alike():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    first, second = (losses.cross_entropy(logits, y) for y in jnp.array([[0, 1], [1, 0]]))
    soft = jnp.array([[0.7, 0.3], [0.3, 0.7]])
    expected = -(soft * jax.nn.log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(
        losses.mixed_loss(first, second, jnp.array(0.7)), expected, rtol=1e-5
    )


def test_mistakes_say_what_to_do():
    batch = batch_of([1, 1])
    with pytest.raises(ValueError, match="gamma is -1, but must be >= 0"):
        plain.mixup(jax.random.key(0), batch, -1)
    with pytest.raises(TypeError, match="only floats and bytes can be mixed"):
        plain.mixup(jax.random.key(0), batch._replace(x=batch.y), 0.4)
