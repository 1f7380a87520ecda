"""The studies of drift and of identities: their data and their ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import client_drift, reidentification
from experiments.client_drift import ABOVE, Case, quadratic, regression


def test_the_optimum_of_the_quadratics_is_where_no_gradient_is():
    federation, least = regression(0)
    x, y = (np.asarray(a, np.float64) for a in (federation.train.x, federation.train.y))
    known = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    best = np.linalg.solve(known.T @ known, known.T @ y)
    assert least == pytest.approx(np.mean(np.square(known @ best - y)))
    assert federation.sizes.tolist() == [client_drift.ROWS] * client_drift.CLIENTS


def test_controls_end_nearer_to_the_optimum_than_the_average():
    case = Case(tuple(range(2, 22, 2)), 0.03, 60)
    fedavg, scaffold = (quadratic(method, case, 0)[-1][ABOVE] for method in ("fedavg", "scaffold"))
    assert scaffold < 0.3 * fedavg


def test_writers_are_identities_of_their_clients_alone(tmp_path: Path):
    people = np.repeat(np.arange(sum(reidentification.WRITERS) + 3), 12)
    x = np.arange(len(people) * 4, dtype=np.int64).astype(np.uint8).reshape(-1, 2, 2, 1)
    np.savez(tmp_path / "mnist.npz", train_x=x, train_y=people % 10, train_client=people)
    made = np.load(reidentification.writers(tmp_path, tmp_path / "out" / "writers.npz"))
    identities = sum(reidentification.WRITERS)
    for part, images in (("train", 12 - reidentification.HELD_OUT), ("test", 8)):
        assert np.bincount(made[f"{part}_y"]).tolist() == [images] * identities
    found = np.array([np.unique(made["test_y"][made["test_client"] == k]).size for k in range(9)])
    assert tuple(found) == reidentification.WRITERS
    one = made["test_y"] == 5
    queries, cameras = made["test_query"][one], made["test_camera"][one]
    assert sorted(zip(queries.tolist(), cameras.tolist(), strict=True)) == [
        *[(0, 0)] * 2,
        *[(0, 1)] * 2,
        *[(1, 0)] * 2,
        *[(1, 1)] * 2,
    ]
    apart = np.load(tmp_path / "out" / "writers_apart.npz")
    assert len(apart["train_x"]) == 3 * 12
