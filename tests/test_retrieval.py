"""Retrieval: CMC and mAP, across cameras, of queries in a gallery."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from federations import logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.data import NaturalIdPartitioner, from_arrays
from fedjax_kd.data.federation import federate
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.evaluation import make_evaluation
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.metrics import METRICS, Sighting, total_of
from fedjax_kd.sweeps.family import sharing

NAMES = ("rank_1", "rank_5", "rank_10", "retrieval_map")


def by_hand(outputs: Any, y: Any, cameras: Any, queries: Any) -> dict[str, float]:
    """The usual protocol: ranks of the gallery without the query's own camera."""
    points = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for i in np.flatnonzero(queries == 1) if queries is not None else range(len(y)):
        gallery = [
            j
            for j in range(len(y))
            if j != i
            and (queries is None or queries[j] == 0)
            and not (cameras is not None and y[j] == y[i] and cameras[j] == cameras[i])
        ]
        order = sorted(gallery, key=lambda j: -points[i] @ points[j])
        right = np.array([y[j] == y[i] for j in order])
        if not right.any():
            continue
        first = int(np.argmax(right))
        for k in (1, 5, 10):
            found[f"rank_{k}"].append(float(first < k))
        ranks = np.flatnonzero(right) + 1
        found["retrieval_map"].append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("cameras", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_as_by_hand(cameras: bool, queries: bool):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 12, 80)
    outputs = (rng.normal(size=(12, 5))[y] + 2 * rng.normal(size=(80, 5))).astype(np.float32)
    seen_by = rng.integers(0, 3, 80) if cameras else None
    asked = (rng.random(80) < 0.4).astype(int) if queries else None
    given = Sighting(
        *(None if a is None else jnp.asarray(a, jnp.int32) for a in (y, seen_by, asked))
    )
    expected = by_hand(outputs, y, seen_by, asked)
    assert expected["rank_1"] < expected["rank_5"] < expected["rank_10"]
    for name in NAMES:
        sums = total_of(METRICS[name].sums(jnp.asarray(outputs), given, jnp.ones(80)))
        assert float(METRICS[name].value(sums)) == pytest.approx(expected[name], abs=1e-5)


def test_equally_near_rows_keep_their_order():
    outputs, y = jnp.ones((3, 2)), jnp.array([0, 1, 0])
    at_1, at_5 = (
        float(METRICS[name].value(total_of(METRICS[name].sums(outputs, y, jnp.ones(3)))))
        for name in ("rank_1", "rank_5")
    )
    assert (at_1, at_5) == (0.5, 1.0)  # row 0 meets row 1 first, row 2 meets row 0


def test_rows_that_are_no_query_and_masked_rows_count_nothing():
    outputs, y = jnp.eye(4), jnp.array([0, 0, 1, -1])
    for name in NAMES:
        sums = METRICS[name].sums(outputs, y, jnp.array([1.0, 0.0, 1.0, 1.0]))
        assert np.isnan(METRICS[name].value(total_of(sums)))


def sightings(**columns: Any) -> Any:
    rng = np.random.default_rng(1)
    rows = 60
    owner, y = np.arange(rows) % 3, np.arange(rows) // 3 % 3
    x = (3 * rng.normal(size=(3, 4))[y] + rng.normal(size=(rows, 4))).astype(np.float32)
    own = {"client": owner, **{name: of(rows) for name, of in columns.items()}}
    how = {"problem": "retrieval", "train_columns": own, "test_columns": own}
    return from_arrays(x, y, x, y, **how)


def evaluated(data: Any) -> Any:
    s = simulate(fedavg(logistic(), local_training()), data, num_rounds=1, cohort_size=2, chunk=2)
    state = initial_state(s)
    return s, make_evaluation(s, state)(state), state


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_cameras_of_a_federation(fraction: float):
    columns = {"camera": lambda n: np.array(["left", "right"])[np.arange(n) % 2]}
    columns["query"] = lambda n: np.arange(n) // 6 % 2
    made = sightings(**columns)
    data = federate(made, NaturalIdPartitioner(), client_test_fraction=fraction)
    s, found, state = evaluated(data)
    logits = np.asarray(s.groups[0].predict(state.server, (), data.test.x))
    cameras = (np.asarray(made.test.columns["camera"]) == "right").astype(int)
    expected = by_hand(logits, made.test.y, cameras, made.test.columns["query"])
    for name in NAMES:
        assert float(METRICS[name].value(found.test[name])) == pytest.approx(
            expected[name], abs=1e-5
        )
    own = data.client_test.of(jnp.int32(1))
    rows = np.asarray(own.rows)[int(own.start) :][: int(own.size)]
    part = made.test if fraction == 0 else made.train
    alone = by_hand(
        np.asarray(s.groups[0].predict(state.server, (), own.x[rows])),
        part.y[rows],
        (np.asarray(part.columns["camera"])[rows] == "right").astype(int),
        np.asarray(part.columns["query"])[rows],
    )
    of_client = [np.asarray(a)[1] for a in found.clients["rank_1"]]
    value = METRICS["rank_1"].value(of_client)
    assert value == pytest.approx(alone["rank_1"], abs=1e-5, nan_ok=True)
    shared = sharing(data, federate(made, NaturalIdPartitioner(), client_test_fraction=fraction))
    assert isinstance(shared.client_test.y, Sighting)


def test_losses_see_identities_alone():
    cameras = {"camera": lambda n: np.arange(n) % 2}
    with_them, without = (
        evaluated(federate(sightings(**given), NaturalIdPartitioner()))[1]
        for given in (cameras, {})
    )
    np.testing.assert_array_equal(with_them.test["loss"][0], without.test["loss"][0])


def test_wrong_queries():
    with pytest.raises(ValueError, match=r"query has the values \[1\], but must be 1 for rows"):
        federate(sightings(query=lambda n: np.ones(n, int)), NaturalIdPartitioner())
