"""Losses on features: against NumPy, what they must not notice, and finite in every hard case."""

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

from fedjax_kd import losses as plain


def stages(x: jax.Array) -> list[jax.Array]:
    """A map and a smaller one after it."""
    return [x, x[:, ::2, ::2] + x[:, 1::2, 1::2]]


def refined(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """FRSKD's loss with logits that are means of features."""
    logits = (x.mean((1, 2)) for x in (student, teacher))
    levels = stages(student), stages(teacher)
    labels = jnp.zeros(len(student), jnp.int32)
    return losses.refined_self_distillation(*logits, labels, *levels, alpha=2.0, beta=1.0)


def by_width(student: jax.Array, teacher: jax.Array) -> jax.Array:
    narrow, full = ((x, stages(x)[1]) for x in (student[..., :2], teacher))
    return losses.lipschitz_alignment((narrow[0], full[1]), full)


def by_stage(loss: Any, **options: Any) -> Any:
    return lambda student, teacher: loss(stages(student), stages(teacher), **options)


ON_FEATURES = {
    "feature_mse": losses.feature_mse,
    "feature_cosine": losses.feature_cosine,
    "attention_transfer": losses.attention_transfer,
    "attention_transfer, mean": lambda s, t: losses.attention_transfer(s, t, measure="mean"),
    "refined_self_distillation": refined,
    "relational_distances": losses.relational_distances,
    "relational_angles": losses.relational_angles,
    "similarity_preserving": losses.similarity_preserving,
    "flow_matching": by_stage(losses.flow_matching),
    "singular_distillation, svd": by_stage(losses.singular_distillation),
    "singular_distillation, eid": by_stage(losses.singular_distillation, decomposition="eid"),
    "lipschitz_alignment": by_width,
}


SHAPE = (3, 4, 4, 3)


EQUAL_SINGULAR_VALUES = np.zeros(SHAPE)


EQUAL_SINGULAR_VALUES.reshape(3, 16, 3)[:, :3] = np.eye(3)


RANDOM = np.random.default_rng(1).normal(size=SHAPE)


HARD = np.array(
    [
        (np.random.default_rng(0).normal(size=SHAPE), RANDOM),
        (np.zeros(SHAPE), RANDOM),
        (RANDOM, np.zeros(SHAPE)),
        (np.zeros(SHAPE), np.zeros(SHAPE)),
        (np.ones(SHAPE), RANDOM),
        (EQUAL_SINGULAR_VALUES, RANDOM),
        (EQUAL_SINGULAR_VALUES, EQUAL_SINGULAR_VALUES),
        (1e4 * np.sign(RANDOM), -1e4 * np.sign(RANDOM)),
        (1e-30 * RANDOM, RANDOM),
        (RANDOM, RANDOM),
    ],
    np.float32,
)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_hard_cases_are_finite_and_batches_do_not_matter(name: str):
    def value(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = ON_FEATURES[name](student, teacher)
        return each.sum(), each

    def with_gradients(cases: jax.Array) -> Any:
        student, teacher = cases
        return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(student, teacher)

    (_, each), gradients = jax.jit(jax.vmap(with_gradients))(jnp.asarray(HARD))
    assert each.shape == HARD.shape[:1] + SHAPE[:1]
    for array in (each, *gradients):
        assert np.isfinite(array).all()
    alone = ON_FEATURES[name](*HARD[0])
    np.testing.assert_allclose(each[0], alone, rtol=1e-3, atol=1e-5)
    if name not in ("refined_self_distillation", "lipschitz_alignment"):
        np.testing.assert_allclose(each[-1], 0, atol=1e-5)  # both models are the same
        assert (each[0] > 1e-4).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(np.array([1e-6, 1, 1e6, 1e20], np.float32)))
def test_lengths_and_directions(seed: int, scale: float):
    x = normal(3, 4, seed=seed)
    expected = np.linalg.norm(np.asarray(x, np.float64), axis=-1)
    np.testing.assert_allclose(losses.length(scale * x), scale * expected, rtol=1e-5)
    np.testing.assert_allclose(losses.normalised(scale * x), x / expected[:, None], rtol=1e-4)
    y = normal(3, 4, seed=seed + 1)
    np.testing.assert_allclose(
        losses.cosine_similarity(scale * x, y), losses.cosine_similarity(x, y), rtol=1e-4, atol=1e-6
    )


def test_the_zero_vector_has_no_direction_and_no_gradient():
    zero, other = jnp.zeros(3), jnp.ones(3)
    assert losses.cosine_similarity(zero, other) == 0
    for slope in (
        jax.grad(losses.length)(zero),
        jax.grad(losses.cosine_similarity)(zero, other),
        jax.grad(losses.cosine_similarity, argnums=1)(zero, other),
        jax.jacobian(losses.normalised)(zero),
    ):
        np.testing.assert_array_equal(slope, 0)


def test_lengths_and_directions_have_their_gradients(float64: None):
    x = jnp.array([3.0, -4.0, 1e-3])
    size = jnp.linalg.norm(x)
    np.testing.assert_allclose(jax.grad(losses.length)(x), x / size, rtol=1e-9)
    expected = (jnp.eye(3) - jnp.outer(x, x) / size**2) / size
    np.testing.assert_allclose(jax.jacobian(losses.normalised)(x), expected, atol=1e-12)


def test_features_match_place_by_place():
    student, teacher = normal(2, 3, 3, 4), normal(2, 3, 3, 4, seed=1)
    expected = np.square(np.asarray(student - teacher)).mean((1, 2, 3))
    np.testing.assert_allclose(losses.feature_mse(student, teacher), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.feature_cosine(student, 3 * student), 0, atol=1e-6)
    np.testing.assert_allclose(losses.feature_cosine(student, -student), 2, rtol=1e-6)


def test_attention_looks_at_places_alone():
    student, teacher = normal(2, 3, 3, 4), normal(2, 3, 3, 5, seed=1)
    values = losses.attention_transfer(student, teacher)
    maps = [np.square(np.asarray(x, np.float64)).sum(-1).reshape(2, 9) for x in (student, teacher)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    np.testing.assert_allclose(values, np.linalg.norm(maps[0] - maps[1], axis=1), rtol=1e-4)
    mean = losses.attention_transfer(student, teacher, measure="mean")
    np.testing.assert_allclose(mean, np.square(values) / 9, rtol=1e-4)
    turned = 5 * student[..., ::-1]
    np.testing.assert_allclose(losses.attention_transfer(turned, teacher), values, rtol=1e-4)


def test_a_diverse_generator_has_the_smaller_loss():
    noise, z = normal(4, 3), normal(4, 2, seed=1)
    same = losses.diversity(noise, jnp.ones((4, 2)))
    some, more = losses.diversity(noise, z), losses.diversity(noise, 3 * z)
    assert same == 1
    assert more < some < same
    np.testing.assert_array_equal(jax.grad(losses.diversity, argnums=1)(noise, jnp.ones((4, 2))), 0)


def test_a_term_as_large_as_another_keeps_its_direction():
    def term(x: jax.Array) -> jax.Array:
        return jnp.square(x).sum()

    x = jnp.array([1.0, 2.0])
    value, slope = jax.value_and_grad(lambda x: losses.as_large_as(term(x), jnp.array(10.0)))(x)
    np.testing.assert_allclose(value, 10, rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * jax.grad(term)(x), rtol=1e-6)
    nothing = jax.grad(lambda x: losses.as_large_as(term(x), jnp.array(10.0)))(jnp.zeros(2))
    np.testing.assert_array_equal(nothing, 0)


def test_the_self_teacher_learns_from_labels_alone():
    logits, teacher = normal(3, 4), normal(3, 4, seed=1)
    features, better = [normal(3, 2, 2, 5)], [normal(3, 2, 2, 8, seed=1)]
    labels = jnp.array([0, -1, 3])

    def loss(logits: Any, teacher: Any, features: Any, better: Any) -> jax.Array:
        values = losses.refined_self_distillation(
            logits, teacher, labels, features, better, alpha=2.0, beta=100.0
        )
        return values.sum(), values

    differentiate = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    slopes, values = differentiate(logits, teacher, features, better)
    assert values[1] == 0
    expected = jax.grad(lambda z: losses.cross_entropy(z, labels).sum())(teacher)
    np.testing.assert_allclose(slopes[1], expected, atol=1e-6)
    np.testing.assert_array_equal(slopes[3][0], 0)
    assert np.abs(slopes[2][0]).max() > 0


def test_mistakes_say_what_to_do():
    x, two = normal(2, 4, 4, 3), [normal(2, 4, 4, 3)] * 2
    with pytest.raises(ValueError, match="both must have the same shape"):
        plain.feature_mse(x, normal(2, 4, 4, 5))
    with pytest.raises(ValueError, match="both must have the same shape"):
        plain.attention_transfer(x, normal(2, 2, 2, 3))
    with pytest.raises(ValueError, match="power is 0, but must be >= 1"):
        plain.attention_map(x, 0)
    with pytest.raises(ValueError, match="measure is 'sum', but must be one of norm, mean"):
        plain.attention_transfer(x, x, measure="sum")
    with pytest.raises(ValueError, match="2 levels of features and the self-teacher 1"):
        plain.refined_self_distillation(
            x[:, 0, 0], x[:, 0, 0], jnp.zeros(2, jnp.int32), two, two[:1], alpha=1.0, beta=1.0
        )
    with pytest.raises(ValueError, match="both must have the same shape"):
        plain.relational_distances(x, x[:1])
    for loss in (plain.flow_matching, plain.singular_distillation):
        with pytest.raises(ValueError, match="same number, at least 2"):
            loss([x], [x])
        with pytest.raises(ValueError, match="same number, at least 2"):
            loss([x, x, x], [x, x])
    with pytest.raises(ValueError, match="3 channels and the teacher's 5"):
        plain.singular_distillation(two, [normal(2, 4, 4, 5)] * 2)
    with pytest.raises(ValueError, match="count is 0"):
        plain.singular_distillation(two, two, count=0)
    with pytest.raises(ValueError, match="decomposition is 'qr'"):
        plain.right_singular_vectors(x, 1, "qr")
    with pytest.raises(ValueError, match="steps is 0"):
        plain.spectral_norm(x[:, 0], 0)
