"""What the points of a sweep say: best configurations, differences, regions, rounds to a target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.report.estimates import Estimate, goal_of, rounds_to, score_of
from fedjax_kd.report.studies import scored
from fedjax_kd.report.sweeps import (
    Tolerance,
    best,
    best_by,
    configurations,
    difference,
    good_region,
    plane,
    tolerance_of,
)

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def points(config: int, *scores: float | str, rounds: int = 10, **parameters: Any) -> list[dict]:
    """A configuration; a word in place of a score is a status without one."""
    return [
        {"config": config, "seed": seed, "finished_rounds": rounds, **parameters}
        | {"score": None if isinstance(s, str) else s}
        | {"status": s if isinstance(s, str) else "finished"}
        for seed, s in enumerate(scores)
    ]


def stopped(config: int, *scores: float, rounds: int = 5, **parameters: Any) -> list[dict]:
    """A configuration that was stopped early with every seed."""
    found = points(config, *scores, rounds=rounds, **parameters)
    return [row | {"status": "stopped"} for row in found]


def test_the_best_mean_wins_whatever_single_seeds_say() -> None:
    table = [*points(0, 0.9, 0.1), *points(1, 0.6, 0.6), *points(2, 0.55, 0.6)]
    assert best(table).config == 1
    assert best(table, "min").config == 0
    assert best([*points(3, 0.6, 0.6), *table]).config == 3  # the first of equals


def test_a_seed_that_diverged_rules_a_configuration_out() -> None:
    table = [*points(0, 0.9, "diverged", 0.9), *points(1, 0.3, 0.3, 0.3)]
    assert best(table).config == 1
    assert [c.status for c in configurations(table)] == ["diverged", "finished"]
    assert best(points(0, 0.9, "diverged")) is None
    assert best([]) is None


def test_a_stopped_one_is_best_only_where_nothing_finished() -> None:
    early, late = stopped(0, 0.9, rounds=5), stopped(1, 0.4, rounds=7)
    assert best([*early, *late, *points(2, 0.2)]).config == 2
    found = best([*early, *late, *points(2, "diverged")])
    assert (found.config, found.status) == (1, "stopped")
    half = points(3, 0.95, "running")
    assert best([*half, *points(2, 0.2, 0.2)]).config == 2
    assert best(half).status == "running"
    assert best(points(0, "running")) is None


def test_best_of_each_method() -> None:
    table = [
        *points(0, 0.5, method="a", tau=0.1),
        *points(1, 0.7, method="a", tau=0.2),
        *points(2, "diverged", method="b"),
    ]
    found = best_by(table)
    assert found["a"].config == 1
    assert found["a"].point["tau"] == 0.2
    assert found["b"] is None
    assert {k: v and v.config for k, v in best_by(table, "tau").items()} == {
        0.1: 0,
        0.2: 1,
        None: None,
    }


@given(SCORES, st.floats(-0.5, 0.5))
@settings(max_examples=30, deadline=None)
def test_a_constant_lead_is_found_whatever_seeds_do(scores: list[float], lead: float) -> None:
    table = [*points(0, *scores), *points(1, *(s + lead for s in scores))]
    found = difference(table, 1, 0)
    assert found.seeds == len(scores)
    assert found.mean == pytest.approx(lead, abs=1e-12)
    assert found.deviation is None or found.deviation < 1e-12
    assert difference(table, 0, 1).mean == pytest.approx(-lead, abs=1e-12)


def test_differences_pair_the_seeds_that_both_finished() -> None:
    table = [*points(0, 0.1, 0.2, 0.3, 0.4), *points(1, 0.5, "diverged", 0.6)]
    assert difference(table, 1, 0).values == pytest.approx((0.4, 0.3))
    assert difference([*points(0, 0.1), *stopped(1, 0.5)], 1, 0) == Estimate(())


@given(st.lists(st.floats(-1e6, 1e6), max_size=8))
@settings(max_examples=40, deadline=None)
def test_estimates(values: list[float]) -> None:
    found = Estimate(tuple(values))
    assert found.seeds == len(values)
    if len(values) < 2:
        assert found.deviation is found.interval is None
        assert math.isnan(found.mean) or found.mean == values[0]
        return
    low, high = found.interval
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= found.mean + slack
    assert found.mean - slack <= high <= max(values) + slack
    assert found.interval == Estimate(tuple(values)).interval


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(size=(150, 12))
    ends = np.array([Estimate(tuple(row.tolist())).interval for row in draws])
    covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    assert 0.84 < covered < 0.98


def test_scores_count_back_from_the_last_evaluation() -> None:
    rows = [
        {"round": n, "loss": float(n), "acc": n / 10 if n % 4 == 0 else None} for n in range(11)
    ]
    assert score_of(rows, "loss") == 10
    assert score_of(rows, "loss", last=3) == 9
    assert score_of(rows, "acc") == 0.8
    assert score_of(rows, "acc", last=5) == pytest.approx(0.6)
    assert math.isnan(score_of(rows, "absent"))
    assert math.isnan(score_of([*rows, {"round": 11, "loss": math.nan}], "loss", last=3))


def test_another_metric_gives_other_scores_and_other_divergence() -> None:
    table = [{"point": n, "status": "finished", "score": 0.5} for n in range(3)]
    rows = [
        {"point": 0, "round": 1, "loss": 0.25},
        {"point": 1, "round": 1, "loss": math.inf},
        {"point": 2, "round": 1},
    ]
    found = scored(table, rows, "loss")
    assert [p["score"] for p in found] == [0.25, None, None]
    assert [p["status"] for p in found] == ["finished", "diverged", "finished"]


def test_rounds_to_a_target_and_back_down() -> None:
    seeds = {
        seed: [{"round": n, "test_accuracy": value} for n, value in enumerate(values)]
        for seed, values in enumerate([(0.1, 0.8, 0.7), (0.1, 0.2, 0.8), (0.1, math.nan, 0.79)])
    }
    found = rounds_to(seeds, "test_accuracy", 0.8)
    assert found.by_seed == {0: 1, 1: 2, 2: None}
    assert (found.seeds, found.rounds) == (2, Estimate(()))
    assert rounds_to(seeds, "test_accuracy", 0.79).rounds.mean == pytest.approx(5 / 3)
    assert rounds_to(seeds, "test_accuracy", 0.15, "min").by_seed == {0: 0, 1: 0, 2: 0}
    assert rounds_to({0: [{"round": 3, "test_loss": 0.2}]}, "test_loss", 0.5).by_seed == {0: 3}
    assert rounds_to({0: []}, "test_loss", 0.5).by_seed == {0: None}


GRID = [
    *points(0, 0.90, client_lr=0.1, server_lr=1.0, tau=0.1),
    *points(1, 0.70, client_lr=0.1, server_lr=1.0, tau=0.2),
    *points(2, 0.88, client_lr=0.2, server_lr=1.0, tau=0.1),
    *points(3, "diverged", client_lr=0.2, server_lr=1.0, tau=0.2),
    *points(4, 0.87, client_lr=0.1, server_lr=3.0, tau=0.1),
    *points(5, "diverged", client_lr=0.2, server_lr=3.0, tau=0.1),
    *stopped(6, 0.90, client_lr=0.3, server_lr=3.0, tau=0.1),
]


def test_planes_take_the_best_of_all_else() -> None:
    cells = plane(GRID)
    assert {cell: c.config for cell, c in cells.items()} == {
        (0.1, 1.0): 0,
        (0.2, 1.0): 2,
        (0.1, 3.0): 4,
        (0.2, 3.0): 5,
        (0.3, 3.0): 6,
    }
    assert cells[0.2, 3.0].status == "diverged"
    assert plane(points(0, 0.5, client_lr=0.1)).keys() == {(0.1, None)}


def test_good_regions_count_what_was_tried() -> None:
    found = good_region(GRID)
    assert (found.good, found.tried, found.share) == (2, 5, 0.4)
    assert found.spans == {"client_lr": (0.1, 0.2), "server_lr": (1.0, 1.0)}
    assert good_region(GRID, tolerance=Tolerance(0.0)).good == 1
    assert good_region(GRID, tolerance=Tolerance(0.04, relative=True)).good == 3
    assert good_region(GRID, goal="min", tolerance=Tolerance(0.25, relative=True)).good == 2
    assert good_region(points(0, "diverged", client_lr=1)).good == 0
    assert good_region(stopped(0, 0.5, client_lr=1), ["client_lr"]).good == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_regions_grow_with_the_tolerance(scores: list, one: float, other: float) -> None:
    table = [row for n, s in enumerate(scores) for row in points(n, s, client_lr=float(n))]
    small, large = (
        good_region(table, ["client_lr"], tolerance=Tolerance(t)) for t in sorted([one, other])
    )
    assert 1 <= small.good <= large.good <= large.tried == len(scores)
    assert good_region(table, ["client_lr"], tolerance=Tolerance(1.0)).share == 1


def test_what_is_better_and_what_is_good_go_by_the_metric() -> None:
    assert goal_of("client_accuracy_worst_decile") == "max"
    assert goal_of("train_loss") == goal_of("test_ece") == "min"
    assert tolerance_of("test_accuracy") == Tolerance(0.02)
    assert tolerance_of("test_loss") == Tolerance(0.1, relative=True)
