"""Which points go on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.sweeps.halving import Halving, Score, diverged, rungs, scoring, selected, status
from fedjax_kd.sweeps.halving import survivors as best

quick = settings(max_examples=100, deadline=None)


@quick
@given(
    eta=st.integers(2, 5),
    first=st.integers(1, 50),
    num_rounds=st.integers(51, 500),
    every=st.integers(1, 40),
)
def test_rungs_are_evaluated_rounds(eta: int, first: int, num_rounds: int, every: int):
    found = rungs(Halving(eta, first), num_rounds, every)
    assert found == sorted(set(found))
    assert found[-1] == num_rounds
    assert all(r % every == 0 and r >= first for r in found[:-1])


@pytest.mark.parametrize(("eta", "first"), [(1, 5), (2, 0), (2, 100), (2, 200)])
def test_wrong_halving(eta: int, first: int):
    with pytest.raises(ValueError, match="Halving"):
        rungs(Halving(eta, first), 100, 10)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(2, 4))
def test_the_best_go_on(scores: list[float], eta: int):
    found = best({n: [s] for n, s in enumerate(scores)}, "max", eta, of=len(scores))
    assert len(found) == -(-len(scores) // eta)
    worst = min(scores[n] for n in found)
    assert all(scores[n] <= worst for n in range(len(scores)) if n not in found)
    lowest = best({n: [s] for n, s in enumerate(scores)}, "min", eta, of=len(scores))
    assert min(range(len(scores)), key=scores.__getitem__) in lowest


def test_a_diverged_seed_rules_its_configuration_out():
    def rows(value: float) -> list[dict[str, float]]:
        return [{"round": 5, "test_accuracy": value, "test_loss": 1.0}]

    lost = [{"round": 3, "test_loss": math.nan, "test_accuracy": 0.99}]
    histories = {0: rows(0.9), 1: lost, 2: rows(0.5), 3: rows(0.6), 4: rows(0.4), 5: rows(0.4)}
    config_of = {p: p // 2 for p in histories}
    assert selected(config_of, [0, 2, 3, 4, 5], histories, Score("test_accuracy"), 3) == [2, 3]


def test_scores():
    rows = [{"round": n, "train_loss": float(n)} for n in range(1, 11)]
    assert scoring("train_loss", 4).of(rows) == 8.5
    assert scoring("train_loss").goal == "min"
    assert scoring("client_accuracy_mean").goal == "max"
    assert Score("test_accuracy").of(rows) is None
    lost = {"round": 1, "test_accuracy": 0.5, "test_loss": math.inf}
    assert Score("test_accuracy").of([lost]) is None
    with pytest.raises(ValueError, match="last is 0"):
        scoring("train_loss", 0)


def test_what_became_of_points():
    assert diverged([{"round": 1, "clients": 0.0, "rejected": 3.0}])
    assert not diverged([{"round": 1, "clients": 0.0, "rejected": 0.0}])  # nobody came
    assert status([{"round": 9}], 10) == "stopped"
    assert status([{"round": 10}], 10) == "finished"
    assert status([{"round": 4, "test_loss": math.inf}], 10) == "diverged"
