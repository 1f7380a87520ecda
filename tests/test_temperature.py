"""Divergences of predictions, and their temperature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_cases import HARD, LABELS

from fedjax_kd import losses as plain

Arrays = tuple[jax.Array, jax.Array]


@st.composite
def two_logits(draw: Any) -> Arrays:
    """Two sets of logits ``[2, 4]``."""
    values = draw(st.lists(st.floats(-20, 20, width=32), min_size=16, max_size=16))
    pair = jnp.asarray(values, jnp.float32).reshape(2, 2, 4)
    return pair[0], pair[1]


@settings(max_examples=30, deadline=None)
@given(two_logits(), st.floats(0.5, 10), st.sampled_from(["forward", "reverse"]))
def test_divergence_is_that_of_numpy(pair: Arrays, tau: float, direction: str):
    student, teacher = (np.asarray(z, np.float64) / tau for z in pair)
    q, p = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (student, teacher))
    if direction == "reverse":
        p, q = q, p
    seen = losses.kl_divergence(*pair, tau, direction=direction, scaled=False)
    np.testing.assert_allclose(seen, (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(two_logits(), st.floats(-50, 50, width=32))
def test_divergence_is_positive_zero_for_the_same_and_blind_to_shifts(pair: Arrays, shift: float):
    student, teacher = pair
    values = losses.kl_divergence(student, teacher)
    assert (values >= -1e-9).all()
    np.testing.assert_array_equal(losses.kl_divergence(student, student), 0)
    np.testing.assert_allclose(losses.kl_divergence(student, student + shift), 0, atol=1e-9)
    shifted = losses.kl_divergence(student + shift, teacher)
    np.testing.assert_allclose(shifted, values, rtol=1e-3, atol=1e-4)


def test_different_predictions_diverge():
    student, teacher = HARD[0]
    for direction in ("forward", "reverse"):
        assert (losses.kl_divergence(student, teacher, direction=direction) > 1e-3).all()


def test_cross_entropy_is_divergence_plus_entropy_and_has_its_gradient():
    student, teacher = HARD[0]
    entropy = losses.soft_cross_entropy(teacher, teacher, 2.0)
    both = losses.kl_divergence(student, teacher, 2.0) + entropy
    np.testing.assert_allclose(losses.soft_cross_entropy(student, teacher, 2.0), both, rtol=1e-5)
    slopes = [
        jax.grad(lambda z, loss=loss: loss(z, teacher, 2.0).sum())(student)
        for loss in (losses.kl_divergence, losses.soft_cross_entropy)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_high_temperatures_match_centred_logits():
    """Hinton, Vinyals, Dean: tau^2 KL becomes the squared difference of centred logits, halved."""
    student, teacher = HARD[0]
    gap = student - teacher
    gap = gap - gap.mean(-1, keepdims=True)
    seen = losses.kl_divergence(student, teacher, 300.0)
    np.testing.assert_allclose(seen, jnp.square(gap).mean(-1) / 2, rtol=1e-2)


def test_low_temperatures_make_hard_labels():
    student, teacher = HARD[0]
    sharp = losses.log_probabilities(teacher, 1e-2)
    soft = losses.soft_cross_entropy(student, 1e4 * teacher)
    hard = losses.cross_entropy(student, teacher.argmax(-1))
    np.testing.assert_allclose(soft, hard, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(sharp).max(-1), 1, rtol=1e-5)


def test_temperature_scales_gradients_alike():
    student, teacher = HARD[0]

    def slope(tau: float, *, scaled: bool) -> jax.Array:
        def loss(z: jax.Array) -> jax.Array:
            return losses.kl_divergence(z, teacher, tau, scaled=scaled).sum()

        return jnp.abs(jax.grad(loss)(student)).max()

    assert 0.5 < slope(50.0, scaled=True) / slope(100.0, scaled=True) < 2
    np.testing.assert_allclose(
        slope(50.0, scaled=False) * 2500, slope(50.0, scaled=True), rtol=1e-4
    )


NOT_A_TEMPERATURE = "tau is .*, but must be (finite and )?> 0: temperature"


@pytest.mark.parametrize("tau", [0, -1.0, np.float32(0), float("nan"), float("inf")])
@pytest.mark.parametrize(
    "loss",
    [
        plain.kl_divergence,
        plain.soft_cross_entropy,
        plain.group_transfer,
        lambda s, t, tau: plain.ensemble_divergence(s, t[None], tau),
        lambda s, t, tau: plain.not_true(s, t, LABELS, tau),
        lambda s, t, tau: plain.received_divergence(s, t, LABELS, tau),
        lambda s, t, tau: plain.model_contrastive(s, t, t, tau),
    ],
)
def test_a_temperature_that_is_a_number_must_be_positive(loss: Any, tau: float):
    with pytest.raises(ValueError, match=NOT_A_TEMPERATURE):
        loss(*HARD[0], tau)


def test_a_temperature_may_be_traced():
    student, teacher = HARD[0]
    taus = jnp.array([1.0, 4.0])
    each = jax.vmap(lambda tau: losses.kl_divergence(student, teacher, tau))(taus)
    for tau, values in zip(taus.tolist(), each, strict=True):
        np.testing.assert_allclose(values, losses.kl_divergence(student, teacher, tau), rtol=1e-5)
