"""Synthetic federations."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from fedjax_kd.data import synthetic_clients, synthetic_test


def test_synthetic_clients_do_not_depend_on_their_number():
    few, many = list(synthetic_clients(5)), list(synthetic_clients(5000))
    assert (len(few), len(many)) == (5, 5000)
    for one, other in zip(few, many[:5], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    x, y = many[4999]
    assert (x.dtype, y.dtype, x.shape[1:]) == (np.uint8, np.int32, (8, 8, 1))
    other = next(synthetic_clients(1, seed=1))
    assert other[0].shape != few[0][0].shape or (other[0] != few[0][0]).any()


def test_synthetic_clients_are_ragged_and_skewed():
    sizes = np.array([len(y) for _, y in synthetic_clients(4000)])
    assert sizes.min() >= 1
    assert sizes.mean() == pytest.approx(10, rel=0.1)
    assert np.log(sizes).std() == pytest.approx(1, abs=0.15)
    skewed, alike = (
        np.mean(
            [np.bincount(y).max() / len(y) for _, y in synthetic_clients(300, alpha=a, sigma=0)]
        )
        for a in (0.1, 100)
    )
    assert skewed > 0.6
    assert alike < 0.4


def test_synthetic_clients_can_be_learnt():
    x, y = map(np.concatenate, zip(*synthetic_clients(300, alpha=10), strict=True))
    test_x, test_y = synthetic_test(500)
    means = np.stack([x[y == k].mean(axis=0, dtype=np.float64) for k in range(10)])
    apart = ((test_x[:, None].astype(float) - means[None]) ** 2).sum(axis=(2, 3, 4))
    assert 0.7 < (apart.argmin(axis=1) == test_y).mean() < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean_rows": 0}, "mean_rows is 0"),
        ({"sigma": -1}, "sigma is -1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"shape": (8, 0)}, r"shape is \(8, 0\), but each must be >= 1"),
    ],
)
def test_wrong_synthetic_options(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        synthetic_clients(3, **wrong)
