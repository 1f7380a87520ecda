"""Metrics by name against scikit-learn; rows that rank one another; metrics of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as reference
from federations import federation, logistic

import fedjax_kd as fk
from fedjax_kd import metrics
from fedjax_kd.core import Data
from fedjax_kd.engine import measuring
from fedjax_kd.metrics import METRICS
from fedjax_kd.metrics.ranking import ascending
from fedjax_kd.runs.user_functions import named_metrics

ROWS, LABELS = 57, 4
KEPT = np.arange(ROWS) >= 7


def value(name: str, outputs: np.ndarray, y: np.ndarray) -> float:
    """A metric of the rows that are kept."""
    given = jnp.asarray(outputs), jnp.asarray(y), jnp.asarray(KEPT, jnp.float32)
    measures = {name: METRICS[name]}
    return metrics.summary(measures, metrics.total_of(metrics.sums_of(measures, *given)))[name]


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """With many ties."""
    rng = np.random.default_rng(0)
    return np.round(rng.normal(size=(ROWS, LABELS)), 1).astype(np.float32)


def drawn(low: int, high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, shape).astype(np.int32)


def test_of_one_class_an_example(logits: np.ndarray) -> None:
    y = drawn(0, LABELS, ROWS)
    chances, own, guesses = (
        np.asarray(jax.nn.softmax(logits))[KEPT],
        y[KEPT],
        logits[KEPT].argmax(1),
    )
    auc = reference.roc_auc_score(own, chances, multi_class="ovr")
    assert value("auc", logits, y) == pytest.approx(auc, rel=1e-5)
    f1 = reference.f1_score(own, guesses, average="macro")
    assert value("macro_f1", logits, y) == pytest.approx(f1, rel=1e-5)
    assert value("accuracy", logits, y) == pytest.approx((own == guesses).mean(), rel=1e-5)
    ranks = np.argsort(-logits, axis=1, kind="stable")[:, :3][KEPT]
    among = (ranks == own[:, None]).any(1).mean()
    assert value("top_3", logits, y) == pytest.approx(among, rel=1e-5)
    assert value("top_5", logits, y) == 1


def test_classes_that_never_occur_are_left_out(logits: np.ndarray) -> None:
    y = drawn(0, 2, ROWS)
    own, chances = y[KEPT], np.asarray(jax.nn.log_softmax(logits))[KEPT]
    each = [reference.roc_auc_score(own == label, chances[:, label]) for label in (0, 1)]
    assert value("auc", logits, y) == pytest.approx(np.mean(each), rel=1e-5)
    assert np.isnan(value("auc", logits, np.zeros_like(y)))


def test_of_several_labels_an_example(logits: np.ndarray) -> None:
    y = drawn(0, 2, ROWS, LABELS)
    own, scores = y[KEPT], logits[KEPT]
    for name, expected in {
        "map": reference.average_precision_score(own, scores, average="macro"),
        "label_auc": reference.roc_auc_score(own, scores),
        "label_f1": reference.f1_score(own, scores > 0, average="macro"),
        "label_accuracy": ((scores > 0) == own).mean(),
    }.items():
        assert value(name, logits, y) == pytest.approx(expected, rel=1e-5), name


def test_unknown_labels_count_nothing(logits: np.ndarray) -> None:
    y = drawn(0, 2, ROWS, LABELS)
    holes = np.where(drawn(0, 4, ROWS, LABELS) == 0, -1, y)
    each, auc = [], []
    for label in range(LABELS):
        known = KEPT & (holes[:, label] >= 0)
        own = holes[known, label], logits[known, label]
        each.append(reference.average_precision_score(*own))
        auc.append(reference.roc_auc_score(*own))
    assert value("map", logits, holes) == pytest.approx(np.mean(each), rel=1e-5)
    assert value("label_auc", logits, holes) == pytest.approx(np.mean(auc), rel=1e-5)


def test_of_values_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    y = (1000 + rng.normal(size=(ROWS, 2))).astype(np.float32)
    guesses = y + 0.5 * rng.normal(size=y.shape).astype(np.float32)
    r2 = reference.r2_score(y[KEPT], guesses[KEPT])
    assert value("r2", guesses, y) == pytest.approx(r2, rel=1e-4)
    error = np.abs(y - guesses)[KEPT].mean()
    assert value("mae", guesses, y) == pytest.approx(error, rel=1e-5)
    assert np.isnan(value("r2", guesses, np.full_like(y, 3.0)))


def test_of_a_class_a_pixel() -> None:
    rng = np.random.default_rng(0)
    y, scores = drawn(-1, 3, ROWS, 5, 5), rng.normal(size=(ROWS, 5, 5, 3)).astype(np.float32)
    known = (y >= 0) & KEPT[:, None, None]
    own, guesses = y[known], scores.argmax(-1)[known]
    overlap = reference.jaccard_score(own, guesses, average=None)
    assert value("mean_iou", scores, y) == pytest.approx(overlap.mean(), rel=1e-5)
    assert value("iou", scores, y) == pytest.approx(overlap[1:].mean(), rel=1e-5)
    dice = reference.f1_score(own, guesses, average=None)[1:].mean()
    assert value("dice", scores, y) == pytest.approx(dice, rel=1e-5)


def test_of_identities_to_be_found_again(logits: np.ndarray) -> None:
    y = drawn(0, 9, ROWS)
    points, own = logits[KEPT] / np.linalg.norm(logits[KEPT], axis=1, keepdims=True), y[KEPT]
    first, precision = [], []
    for row, near in enumerate(points @ points.T):
        others = np.arange(len(own)) != row
        same = own[others] == own[row]
        if same.any():
            first.append(same[near[others].argmax()])
            precision.append(reference.average_precision_score(same, near[others]))
    assert value("rank_1", logits, y) == pytest.approx(np.mean(first), rel=1e-5)
    assert value("retrieval_map", logits, y) == pytest.approx(np.mean(precision), rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floats_are_sorted_by_their_bits(dtype: Any) -> None:
    values = np.random.default_rng(0).normal(size=200)
    given = jnp.asarray([*values, 0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-40], dtype)
    found, expected = ascending(given), jnp.sort(given)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(float), expected.astype(float))


def test_ranks_are_those_among_a_clients_own_rows() -> None:
    """As scikit-learn has them of each client alone, whatever its size."""
    data = federation((5, 0, 4, 1, 3))
    predict, measures = lambda x: x[:, :3], {"auc": metrics.auc, "accuracy": metrics.accuracy}
    found = measuring.measure_rows(predict, measures, data.train, 25)
    clients = measuring.measure_clients(measures, *found, data.train, 5)
    for number in range(data.num_clients):
        own: Data = data.train.of(jnp.int32(number))
        alone = measuring.measure_own(predict, measures, own, 5)
        for one, of_all in zip(jax.tree.leaves(alone), jax.tree.leaves(clients), strict=True):
            np.testing.assert_allclose(one, of_all[number], rtol=1e-5)
        rows = data.parts[number]
        chances = np.asarray(jax.nn.log_softmax(data.train.x[rows, :3]))
        labels, each = np.asarray(data.train.y)[rows], []
        for label in range(3):
            if 0 < (labels == label).sum() < len(labels):
                each.append(reference.roc_auc_score(labels == label, chances[:, label]))
        seen = metrics.auc.value(jax.device_get(alone["auc"]))
        assert seen == pytest.approx(np.mean(each) if each else np.nan, rel=1e-4, nan_ok=True)


def algorithm() -> fk.Algorithm:
    return fk.fedavg(logistic(), fk.local_training())


def test_metrics_of_ones_own_are_columns_like_any_other() -> None:
    own = {"second": lambda outputs, y: outputs.argsort(-1)[:, -2] == y, "top_2": metrics.top_k(2)}
    result = fk.train(algorithm(), federation(), num_rounds=1, cohort_size=2, metrics=own)
    row = result.history[-1]
    assert row["test_top_2"] == pytest.approx(row["test_accuracy"] + row["test_second"], rel=1e-5)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            {"mine": lambda outputs, y: (outputs.argmax(-1) == y).mean()},
            r"shape \(\) for 3 examples",
        ),
        (
            {"mine": lambda outputs, y: outputs[:, :2] @ y},
            "The metric mine cannot be computed from",
        ),
        ({"accuracy": metrics.top_k(2)}, "names accuracy, which evaluation of this problem tells"),
        ({"my metric": metrics.top_k(2)}, "is called 'my metric', but its name becomes part of"),
        ({"mine": 3}, "The metric mine is a int, but must be a function"),
    ],
)
def test_wrong_metrics_are_refused_before_anything_runs(own: dict, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        fk.simulate(algorithm(), federation(), num_rounds=1, cohort_size=2, metrics=own)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acuracy", "There is no metric 'acuracy'; near it: accuracy"),
        ("nowhere:f", "nowhere:f cannot be imported"),
        ("math:nothing", "math has no 'nothing'"),
    ],
)
def test_unknown_names_are_told(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        named_metrics([name])


def test_columns_say_whether_more_is_better() -> None:
    better = ("test_auc", "judged_dice", "client_map_worst_decile", "group_1_r2", "my_accuracy")
    assert all(map(metrics.rises, better))
    worse = (
        "test_loss",
        "judged_mae",
        "validation_ece",
        "train_loss",
        "train_drift",
        "judged_mape",
    )
    assert not any(map(metrics.rises, worse))
