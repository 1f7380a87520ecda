"""Tallies against NumPy, sums over any cutting, and the spread over clients."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import SIZES, federation, logistic
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd import metrics
from fedjax_kd.core import Pool
from fedjax_kd.engine import evaluation, measuring
from fedjax_kd.losses import cross_entropy

OF_CLASSES = {
    "loss": metrics.mean_of(cross_entropy, larger_is_better=False),
    "accuracy": metrics.accuracy,
    "ece": metrics.expected_calibration_error,
}


def tally(logits: jax.Array, y: jax.Array, mask: jax.Array) -> metrics.Tally:
    """The sums of each row."""
    return metrics.sums_of(OF_CLASSES, logits, y, mask)


def predictions(rows: int = 40, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, 3)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(rng.integers(0, 3, rows).astype(np.int32))


def by_hand(logits: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Loss, accuracy and calibration error, bin by bin."""
    p = np.exp(logits.astype(float))
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == y
    edges = np.linspace(0, 1, 16)
    ece = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    return {"loss": float(loss), "accuracy": float(right.mean()), "ece": float(ece)}


def test_summary_is_what_the_formulas_say():
    logits, y = predictions()
    seen = metrics.summary(OF_CLASSES, metrics.total_of(tally(logits, y, jnp.ones(len(y)))))
    assert seen == pytest.approx(by_hand(np.asarray(logits), np.asarray(y)), rel=1e-4)


@given(st.lists(st.integers(0, 1), min_size=40, max_size=40), st.integers(1, 39))
@settings(max_examples=20, deadline=None)
def test_masked_rows_count_nothing_and_parts_add_up(mask: list[int], cut: int):
    logits, y = predictions()
    kept = np.array(mask) == 1
    rows = tally(logits, y, jnp.asarray(mask, jnp.float32))
    halves = [jax.tree.map(lambda a, part=part: a[part], rows) for part in np.s_[:cut, cut:]]
    seen = metrics.summary(OF_CLASSES, jax.tree.map(np.add, *map(metrics.total_of, halves)))
    if kept.any():
        expected = by_hand(np.asarray(logits)[kept], np.asarray(y)[kept])
        assert seen == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert np.isnan(list(seen.values())).all()


def test_sequences_leave_out_positions_without_label():
    logits, y = predictions(24)
    holes = y.at[::5].set(-1).reshape(4, 6)
    rows = tally(logits.reshape(4, 6, 3), holes, jnp.array([1.0, 1.0, 0.0, 1.0]))
    kept = np.asarray((holes >= 0).at[2].set(False)).reshape(-1)
    assert rows["loss"][1].tolist() == kept.reshape(4, 6).sum(1).tolist()
    expected = by_hand(np.asarray(logits)[kept], np.asarray(y)[kept])
    assert metrics.summary(OF_CLASSES, metrics.total_of(rows)) == pytest.approx(expected, rel=1e-4)


def binned_by_product(weights: jax.Array, confidence: jax.Array, correct: jax.Array) -> jax.Array:
    """The sums of each bin as a product with one-hot bins."""
    place = jnp.clip(jnp.ceil(confidence * 15) - 1, 0, 14).astype(jnp.int32)
    terms = jnp.stack([weights, weights * confidence, correct], axis=1)
    return terms @ jax.nn.one_hot(place, 15)


def test_bins_hold_the_sums_of_a_product_with_one_hot_bins():
    rng = np.random.default_rng(0)
    confidence = (
        jnp.asarray(rng.uniform(size=(6, 50)), jnp.float32).at[0, :2].set(jnp.array([0.0, 1.0]))
    )
    weights = jnp.asarray(rng.integers(0, 2, (6, 50)), jnp.float32)
    given = weights, confidence, weights * (confidence > 0.5).astype(jnp.float32)
    seen, expected = metrics.binned(*given, 15), binned_by_product(*given)
    np.testing.assert_array_equal(seen[:, [0, 2]], expected[:, [0, 2]])
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    alone = [values[:, :1] for values in given]  # one prediction an example: no order of a sum
    np.testing.assert_array_equal(metrics.binned(*alone, 15), binned_by_product(*alone))


def test_bins_take_no_more_memory_than_the_predictions():
    """Of masks there are millions of predictions: none of them is written down once a bin."""
    masks = jax.ShapeDtypeStruct((8, 256 * 256), jnp.float32)
    lowered = jax.jit(partial(metrics.binned, bins=15)).lower(masks, masks, masks)
    dimensions = re.findall(r"tensor<((?:\d+x)+)", lowered.as_text())
    largest = max(math.prod(map(int, shape.split("x")[:-1])) for shape in dimensions)
    assert largest == 3 * masks.size
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 15 * 4 * masks.size


def test_spread_over_clients():
    accuracy = np.arange(20) / 20
    correct, labels = np.array([*10 * accuracy, 0.0]), np.array([10.0] * 20 + [0.0])
    values = metrics.accuracy.value((correct, labels))
    assert np.isnan(values[-1])
    spread = metrics.over_clients(values)
    assert spread["mean"] == pytest.approx(accuracy.mean())
    assert spread["std"] == pytest.approx(accuracy.std())
    assert spread["q05"] == pytest.approx(np.quantile(accuracy, 0.05))
    assert spread["q75"] == pytest.approx(np.quantile(accuracy, 0.75))
    assert spread["worst_decile"] == pytest.approx(accuracy[:2].mean())
    of_errors = metrics.over_clients(values, larger_is_better=False)
    assert of_errors["worst_decile"] == pytest.approx(accuracy[-2:].mean())
    assert np.isnan(list(metrics.over_clients(np.full(21, np.nan)).values())).all()


def test_evaluation_goes_over_every_row_and_client():
    data, task = federation(), logistic()
    model = task.init(jax.random.key(0))
    found = measuring.measure_rows(lambda x: task.apply(model, x)[0], OF_CLASSES, data.train, 25)
    clients = measuring.measure_clients(OF_CLASSES, *found, data.train, max(SIZES))
    assert clients["accuracy"][1].tolist() == list(SIZES)
    logits = np.asarray(task.apply(model, data.train.x)[0])
    right = logits.argmax(1) == np.asarray(data.train.y)
    assert clients["accuracy"][0].tolist() == [float(right[part].sum()) for part in data.parts]
    whole = measuring.measure_all(OF_CLASSES, *found, data.train)
    expected = by_hand(logits, np.asarray(data.train.y))
    assert metrics.summary(OF_CLASSES, whole) == pytest.approx(expected, rel=1e-4)


def test_classes_are_counted_by_their_labels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(6, 4)).astype(np.float32)
    y = random.integers(-1, 3, 6).astype(np.int32)
    mask = np.array([1, 1, 0, 1, 1, 0], np.float32)
    rows = tally(jnp.asarray(logits), jnp.asarray(y), jnp.asarray(mask))
    order = np.arange(6, dtype=np.int32)
    pool = Pool((), jnp.asarray(y), jnp.asarray(order), jnp.zeros(1, int), jnp.full(1, 6))
    sums = evaluation.by_class(rows, pool, 4)
    kept, guesses = y[mask == 1], logits.argmax(-1)[mask == 1]
    seen = metrics.class_accuracy(sums)
    for label in range(3):
        assert float(sums.counted[label]) == (kept == label).sum()
        own = guesses[kept == label] == label
        expected = own.mean() if own.size else np.nan
        assert seen[label] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert np.isnan(seen[3])  # nobody has this class


def test_forgetting_is_what_the_last_round_has_lost():
    accuracy = jnp.array([[0.9, 0.1, np.nan], [0.5, 0.2, np.nan], [0.6, 0.8, np.nan]])
    np.testing.assert_allclose(metrics.forgetting(accuracy), (0.3 - 0.6) / 2, rtol=1e-5)
    assert np.isnan(metrics.forgetting(accuracy[:, 2:]))
    with pytest.raises(ValueError, match="There are 1 rounds, but only what a round before"):
        metrics.forgetting(accuracy[:1])


def test_divergence_of_weights_is_relative():
    model = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    reference = {"a": jnp.array([0.0, 0.0]), "b": jnp.array([[2.0]])}
    seen = metrics.weight_divergence(model, reference)
    assert seen == pytest.approx(np.sqrt(9 + 4) / 2, rel=1e-6)
    by_layer = jax.tree.map(metrics.weight_divergence, model, reference)
    assert np.isinf(by_layer["a"])
    assert by_layer["b"] == 1
    assert metrics.weight_divergence(reference["a"], reference["a"]) == 0
