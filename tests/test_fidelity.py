"""Fidelity of a student: against NumPy, summed over any parts; and students that start nearby."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import losses
from flax import nnx

from fedjax_kd.core import Variables
from fedjax_kd.metrics import fidelity
from fedjax_kd.task import from_nnx

measured = jax.jit(fidelity.fidelity)


def predictions(rows: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a student and a teacher, and labels of which some are unknown."""
    random = np.random.default_rng(0)
    student, teacher = 2 * random.normal(size=(2, rows, 4)).astype(np.float32)
    return student, teacher, random.integers(-1, 4, rows).astype(np.int32)


def test_summary_is_what_the_formulas_say_and_parts_add_up():
    student, teacher, labels = predictions()
    mask = np.random.default_rng(1).integers(0, 2, len(labels)).astype(np.float32)
    pieces = [slice(0, 11), slice(11, None)]
    parts = [measured(student[p], teacher[p], labels[p], mask[p]) for p in pieces]
    seen = fidelity.fidelity_summary(jax.tree.map(jnp.add, *parts))
    kept = np.asarray(mask) == 1
    s, t, y = (np.asarray(a)[kept] for a in (student, teacher, labels))
    q, p = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (s, t))
    confidence, right = q.max(-1)[y >= 0], (q.argmax(-1) == y)[y >= 0]
    place = np.ceil(confidence * 10)
    gaps = [abs((right - confidence)[place == b].sum()) for b in range(1, 11)]
    expected = {
        "agreement": (q.argmax(-1) == p.argmax(-1)).mean(),
        "kl": (p * np.log(p / q)).sum(-1).mean(),
        "ece": sum(gaps) / len(right),
    }
    assert seen == pytest.approx(expected, rel=1e-4)


def test_a_perfect_student():
    student, _, labels = predictions()
    sums = measured(student, student + 3, labels, np.ones(len(labels), np.float32))
    seen = fidelity.fidelity_summary(sums)
    assert seen["agreement"] == 1
    assert seen["kl"] == pytest.approx(0, abs=1e-6)


def test_nothing_counted_is_no_number():
    student, teacher, labels = predictions()
    sums = measured(student, teacher, labels, np.zeros(len(labels), np.float32))
    assert np.isnan(list(fidelity.fidelity_summary(sums).values())).all()
    unlabelled = measured(student, teacher, -np.ones_like(labels), np.ones(len(labels), np.float32))
    seen = fidelity.fidelity_summary(unlabelled)
    assert np.isnan(seen["ece"])
    assert seen["kl"] > 0


def test_ties_go_to_the_first_class():
    student, teacher = jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([[2.0, 0.0], [3.0, 3.0]])
    np.testing.assert_array_equal(fidelity.agreement(student, teacher), [1, 0])


def test_starts_lie_between_and_counters_are_not_mixed():
    teacher = Variables({"w": jnp.array([4.0])}, {"mean": jnp.array(2.0), "steps": jnp.array(9)})
    fresh = Variables({"w": jnp.array([0.0])}, {"mean": jnp.array(0.0), "steps": jnp.array(0)})
    start = fidelity.interpolated(teacher, fresh, 0.25)
    assert start == Variables({"w": 1.0}, {"mean": 0.5, "steps": 0})
    assert fidelity.interpolated(teacher, fresh, 1.0).params == teacher.params
    assert fidelity.interpolated(teacher, fresh, 0.0) == fresh


class Normalised(nnx.Module):
    """BatchNorm before a linear layer."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x))


def test_statistics_are_refreshed_by_a_pass_over_the_data():
    task = from_nnx(lambda rngs: Normalised(rngs=rngs))
    model = task.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(5, 1, (2, 8, 3)), jnp.float32)
    fresh = jax.jit(lambda model: fidelity.refreshed(task.apply, jax.random.key(1), model, x))(
        model
    )
    np.testing.assert_allclose(fresh.stats["norm"]["mean"], x[1].mean(0), rtol=1e-5)
    same = jax.tree.map(np.array_equal, fresh.params, model.params)
    assert all(jax.tree.leaves(same))


def test_students_that_start_nearer_find_the_teacher():
    """Two basins: gradient descent goes to the one on whose side a student starts."""
    teacher, fresh = Variables(jnp.array(1.0)), Variables(jnp.array(-1.0))

    def distil(key: jax.Array, student: Variables) -> Variables:
        del key
        loss = jax.grad(lambda w: jnp.square(jnp.square(w) - 1))

        def step(_: int, w: jax.Array) -> jax.Array:
            return w - 0.05 * loss(w)

        return student._replace(params=jax.lax.fori_loop(0, 100, step, student.params))

    def study(lambdas: tuple[float, ...]) -> jax.Array:
        return fidelity.interpolation_study(
            jax.random.key(0), teacher, fresh, distil, lambda v: v.params, lambdas=lambdas
        )

    np.testing.assert_allclose(study((0.0, 0.4, 0.6, 1.0)), [-1, -1, 1, 1], atol=1e-3)
    with pytest.raises(ValueError, match=r"lambdas is \(0.0, 1.5\), but each must be in"):
        study((0.0, 1.5))


def test_an_ensemble_may_be_the_teacher():
    student, teacher, labels = predictions()
    together = losses.ensemble_logits(np.stack([teacher, student]), average="probabilities")
    expected = (jax.nn.softmax(teacher) + jax.nn.softmax(student)) / 2
    np.testing.assert_allclose(jnp.exp(together), expected, rtol=1e-4)
    sums = measured(student, together, labels, np.ones(len(labels), np.float32))
    half = measured(student, teacher, labels, np.ones(len(labels), np.float32))
    assert sums.kl < half.kl
