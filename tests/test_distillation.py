"""Losses on logits: what they say, in the limits too, and that nothing makes them overflow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from logit_cases import HARD, LABELS

from fedjax_kd import losses as plain


def mutual(student: jax.Array, teacher: jax.Array, **options: Any) -> jax.Array:
    """The sum of both sides' losses."""
    return sum(losses.adaptive_mutual(teacher, student, LABELS, **options))


def with_labels(loss: Any, **options: Any) -> Any:
    return lambda student, teacher: loss(student, teacher, LABELS, **options)


def of_two(student: jax.Array, teacher: jax.Array, average: str) -> jax.Array:
    """The divergence from two teachers, one of which is not sure."""
    teachers = jnp.stack([teacher, jnp.zeros_like(teacher)])
    return losses.ensemble_divergence(student, teachers, 2.0, average=average)


ON_LOGITS = {
    "kl_divergence": losses.kl_divergence,
    "reverse": lambda s, t: losses.kl_divergence(s, t, 2.0, direction="reverse"),
    "soft_cross_entropy": lambda s, t: losses.soft_cross_entropy(s, t, 0.5),
    "logit_mse": losses.logit_mse,
    "ensemble of logits": lambda s, t: of_two(s, t, "logits"),
    "ensemble of probabilities": lambda s, t: of_two(s, t, "probabilities"),
    "ensemble of losses": lambda s, t: of_two(s, t, "losses"),
    "not_true": with_labels(losses.not_true, tau=3.0),
    "received_divergence": with_labels(losses.received_divergence),
    "group_transfer": losses.group_transfer,
    "group_transfer, code": lambda s, t: losses.group_transfer(s, t, 100.0, variant="code"),
    "adaptive_mutual": lambda s, t: mutual(s, t, hidden=1.0),
    "adaptive_mutual, code": lambda s, t: mutual(s, t, hidden=1.0, variant="code"),
    "adaptive_mutual, by example": lambda s, t: mutual(s, t, intensity="example"),
    "model_contrastive": lambda s, t: losses.model_contrastive(s, t, -t),
}


@pytest.mark.parametrize("name", ON_LOGITS)
def test_hard_cases_are_finite_and_batches_do_not_matter(name: str):
    def value(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = ON_LOGITS[name](student, teacher)
        return each.sum(), each

    def with_gradients(cases: jax.Array) -> Any:
        student, teacher = cases
        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(student, teacher)

    (_, each), gradients = jax.jit(jax.vmap(with_gradients))(jnp.asarray(HARD))
    assert each.shape == HARD.shape[:1] + HARD.shape[2:3]
    for array in (each, *gradients):
        assert np.isfinite(array).all()
    alone = ON_LOGITS[name](*HARD[0])
    np.testing.assert_allclose(each[0], alone, rtol=1e-4, atol=1e-6)


def test_a_batch_of_one_and_labels_of_every_position():
    logits, other = HARD[0, :, :1]
    for loss in (losses.not_true, losses.received_divergence):
        alone = loss(logits, other, jnp.array([1]))
        assert alone.shape == (1,)
        tall = loss(logits[None], other[None], jnp.array([[1]], jnp.uint8))
        np.testing.assert_allclose(tall, alone[None], rtol=1e-6)


def test_excluded_classes_do_not_count():
    student, teacher = HARD[0]
    wide = [np.pad(z, ((0, 0), (0, 1)), constant_values=-np.inf) for z in (student, teacher)]
    seen = losses.kl_divergence(*wide)
    np.testing.assert_allclose(seen, losses.kl_divergence(student, teacher), rtol=1e-6)
    slope = jax.grad(lambda z: losses.kl_divergence(z, wide[1]).sum())(wide[0])
    assert np.isfinite(slope).all()
    forbidden = losses.kl_divergence(np.where(np.arange(3) == 0, -np.inf, student), teacher)
    assert (forbidden > 1e30).all()


def test_not_true_does_not_see_the_label():
    logits, teacher = HARD[0]
    labels = LABELS
    own = np.arange(3)[None] == labels[:, None]
    changed = np.where(own, logits + 5, logits)
    values = losses.not_true(logits, teacher, labels, 2.0)
    np.testing.assert_array_equal(losses.not_true(changed, teacher, labels, 2.0), values)
    kept = np.array([[1, 2], [0, 1]])
    small = [np.take_along_axis(z, kept, 1) for z in (logits, teacher)]
    expected = losses.kl_divergence(*small, 2.0)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    slope = jax.grad(lambda z: losses.not_true(z, teacher, labels).sum())(logits)
    np.testing.assert_array_equal(np.asarray(slope)[own], 0)


@pytest.mark.parametrize("loss", [losses.not_true, losses.received_divergence])
def test_the_received_model_is_a_constant(loss: Any):
    logits, teacher = HARD[0]
    slope = jax.grad(lambda t: loss(logits, t, LABELS).sum())(teacher)
    np.testing.assert_array_equal(slope, 0)


def test_no_label_gives_no_loss():
    logits, teacher = HARD[0]
    labels = jnp.array([-1, 1])
    for values in (
        losses.not_true(logits, teacher, labels),
        losses.received_divergence(logits, teacher, labels),
        *losses.adaptive_mutual(logits, teacher, labels, hidden=1.0),
    ):
        assert values[0] == 0
        assert values[1] > 0


def test_the_received_model_speaks_of_all_classes_or_of_the_false_ones():
    logits, teacher = HARD[0]
    values = losses.received_divergence(logits, teacher, LABELS, 3.0)
    np.testing.assert_array_equal(values, losses.kl_divergence(logits, teacher, 3.0))
    taught = losses.received_divergence(logits, teacher, LABELS, 3.0, classes="not_true")
    np.testing.assert_array_equal(taught, losses.not_true(logits, teacher, LABELS, 3.0))


def test_contrast_counts_every_previous_model():
    z, received, previous = jnp.asarray(
        np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32
    )
    one = losses.model_contrastive(z, received, previous)
    several = losses.model_contrastive(z, received, jnp.stack([previous, previous]))
    assert (several > one).all()
    np.testing.assert_array_equal(losses.model_contrastive(z, received, jnp.zeros((0, 2, 4))), 0)
    np.testing.assert_allclose(losses.model_contrastive(7 * z, received, previous), one, rtol=1e-5)
    # A new client's previous model is the received one: a constant.
    slope = jax.grad(lambda z: losses.model_contrastive(z, received, received).sum())(z)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    slopes = jax.grad(lambda *others: losses.model_contrastive(z, *others).sum(), argnums=(0, 1))(
        received, previous
    )
    np.testing.assert_array_equal(slopes, np.zeros((2, 2, 4)))


def test_ensembles_leave_out_who_has_no_vote():
    student, teachers = jnp.asarray(HARD[0, 0]), jnp.asarray(HARD[:3, 1])
    for average in ("logits", "probabilities", "losses"):

        def divergence(votes: list[float], average: str = average) -> jax.Array:
            weights = jnp.array(votes)
            return losses.ensemble_divergence(student, teachers, weights=weights, average=average)

        alone = losses.kl_divergence(student, teachers[0])
        np.testing.assert_allclose(divergence([3.0, 0.0, 0.0]), alone, rtol=1e-5)
        np.testing.assert_array_equal(divergence([0.0, 0.0, 0.0]), 0)


def test_masked_rows_do_not_change_the_mutual_intensity():
    student, teacher = HARD[0]
    labels, mask = LABELS, jnp.array([1.0, 0.0])
    both = losses.adaptive_mutual(teacher, student, labels, mask=mask)
    alone = losses.adaptive_mutual(teacher[:1], student[:1], labels[:1])
    np.testing.assert_allclose(both.student[:1], alone.student, rtol=1e-6)
    np.testing.assert_allclose(both.teacher[:1], alone.teacher, rtol=1e-6)


def test_bad_models_hardly_teach_each_other():
    student, teacher, labels = jnp.zeros((1, 3)), jnp.array([[0.0, 1.0, 2.0]]), jnp.array([0])

    def taught(scale: float) -> jax.Array:
        both = losses.adaptive_mutual(scale * teacher, student, labels, intensity="example")
        kl = losses.kl_divergence(student, scale * teacher)
        return (both.student - losses.cross_entropy(student, labels)) / kl

    assert taught(10.0) < 0.3 * taught(1.0)


def test_other_mistakes_say_what_to_do():
    z, wide, labels = jnp.zeros((2, 3)), jnp.zeros((2, 4)), LABELS
    for loss in (plain.kl_divergence, plain.soft_cross_entropy, plain.logit_mse):
        with pytest.raises(ValueError, match="take models for the same classes"):
            loss(z, wide)
    with pytest.raises(ValueError, match="classes is 'some', but must be one of all, not_true"):
        plain.received_divergence(z, z, labels, classes="some")
    with pytest.raises(ValueError, match="direction is 'back', but must be one of forward, rev"):
        plain.kl_divergence(z, z, direction="back")
    with pytest.raises(
        ValueError, match="average is 'losses', but must be one of logits, probabilities"
    ):
        plain.ensemble_logits(z[None], average="losses")
    with pytest.raises(ValueError, match="variant is 'x'"):
        plain.group_transfer(z, z, variant="x")
    with pytest.raises(ValueError, match="floor is 0"):
        plain.adaptive_mutual(z, z, labels, floor=0)


def test_teachers_may_have_another_precision():
    student, teacher = HARD[0]
    short = losses.kl_divergence(student, teacher.astype(jnp.bfloat16))
    assert short.dtype == jnp.float32
    np.testing.assert_allclose(short, losses.kl_divergence(student, teacher), rtol=0.05)
