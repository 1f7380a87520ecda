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
    held, trained = reidentification.HELD_OUT, reidentification.TRAINED
    identities, each = sum(reidentification.WRITERS), 2 * 4 * held
    people = np.repeat(np.arange(identities + 4), each)
    people = people[each // 2 :]  # the first one has too few
    number = np.arange(len(people))
    x = np.stack([number // 256, number % 256], axis=-1).astype(np.uint8).reshape(-1, 1, 2, 1)
    np.savez(tmp_path / "mnist.npz", train_x=x, train_y=people % 10, train_client=people)
    made = np.load(reidentification.writers(tmp_path, tmp_path / "out" / "writers.npz"))
    digits = {}
    for part, tiles in (("train", trained), ("test", held)):
        assert np.bincount(made[f"{part}_y"]).tolist() == [tiles] * identities
        pixels = made[f"{part}_x"].reshape(-1, 4, 2).astype(int)
        digits[part] = 256 * pixels[..., 0] + pixels[..., 1]
        whose = people[digits[part]]
        assert (whose == whose[:, :1]).all()
        assert len(set(zip(whose[:, 0], made[f"{part}_y"], strict=True))) == identities
    assert np.unique(digits["test"]).size == digits["test"].size
    assert not set(digits["test"].ravel()) & set(digits["train"].ravel())
    found = np.array([np.unique(made["test_y"][made["test_client"] == k]).size for k in range(9)])
    assert tuple(found) == reidentification.WRITERS
    one = made["test_y"] == 5
    queries, cameras = made["test_query"][one], made["test_camera"][one]
    pairs = [(query, camera) for query in (0, 1) for camera in (0, 1) for _ in range(2)]
    assert sorted(zip(queries.tolist(), cameras.tolist(), strict=True)) == pairs
    apart = np.load(tmp_path / "out" / "writers_apart.npz")
    assert len(apart["train_x"]) == 3 * trained
