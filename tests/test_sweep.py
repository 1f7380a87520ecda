"""Points that are trained together have the numbers of single runs."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import federations
import jax
import numpy as np
import pytest
from federations import federation, logistic

import fedjax_kd as fk
from fedjax_kd.core import Algorithm
from fedjax_kd.engine import memory
from fedjax_kd.sweeps import program, rounds, widths
from fedjax_kd.sweeps.api import Trained, sweep
from fedjax_kd.sweeps.family import Family, Member, family_of
from fedjax_kd.sweeps.tiles import Width

TASK = logistic(5)
OPTIONS: dict[str, Any] = {"num_rounds": 7, "cohort_size": 3, "eval_every": 3}
# Clients of other sizes for each seed: their tables of rows differ in everything but the length.
OF_SEED = {0: federation(), 4: federation((3, 5, 12, 1, 0, 7)), 9: federation((1, 1, 8, 8, 2, 8))}
GRID = fk.grid(client_lr=[0.01, 0.1, 0.4], other=[0.1, 1.0])


def fedadam(client_lr: float, other: float, batch_size: int = 4) -> Algorithm:
    return fk.fedadam(
        TASK, fk.local_training(client_lr=client_lr, batch_size=batch_size), eta=other
    )


def fedprox(client_lr: float, other: float) -> Algorithm:
    return fk.fedprox(TASK, fk.local_training(client_lr=client_lr, client_momentum=0.5), mu=other)


def scaffold(client_lr: float, other: float) -> Algorithm:
    return fk.scaffold(TASK, fk.local_training(client_lr=client_lr), server_lr=other)


def numbers(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "steps_computed"}


@cache
def alone(
    make: Any, setting: tuple[tuple[str, Any], ...], seed: int, more: tuple[tuple[str, Any], ...]
) -> list[dict[str, float]]:
    algorithm, options = make(**dict(setting)), OPTIONS | dict(more)
    return fk.train(algorithm, OF_SEED[seed], seed=seed, chunk=1, **options).history


def assert_like_alone(make: Any, points: list[Trained], **more: Any) -> None:
    for point in points:
        single = alone(make, (*point.setting.items(),), point.seed, (*more.items(),))
        assert len(point.history) == len(single)
        for ours, theirs in zip(point.history, single, strict=True):
            # How many steps were computed for nothing depends on how wide chunks are.
            assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, abs=2e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("make", "width", "more"),
    [
        pytest.param(fedadam, Width(1), {}, marks=pytest.mark.thorough),
        (fedprox, Width(4, clients=2), {"rounds_per_dispatch": 6, "dropout_rate": 0.3}),
        pytest.param(scaffold, Width(6, seeds=2, clients=3), {}, marks=pytest.mark.thorough),
    ],
)
def test_points_equal_single_runs(make: Any, width: Width, more: dict[str, Any]):
    points = sweep(make, OF_SEED, GRID, seeds=tuple(OF_SEED), width=width, **OPTIONS | more)
    assert [(p.setting, p.seed) for p in points] == [(s, n) for s in GRID for n in OF_SEED]
    assert {p.status for p in points} == {"finished"}
    assert_like_alone(make, [points[7], points[14]], **more)


def tempered(client_lr: float, other: float) -> Algorithm:
    base = fk.fedavg(TASK, fk.local_training(client_lr=client_lr))
    return base._replace(predict=lambda server, own, x: other * base.predict(server, own, x))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "evaluations"), [(fedadam, 1), pytest.param(tempered, 3, marks=pytest.mark.thorough)]
)
def test_initial_models_are_evaluated_once_a_seed(
    make: Any, evaluations: int, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def counting(*arguments: Any) -> program.Programs:
        made = program.compiled(*arguments)
        return made._replace(evaluate=lambda *given: seen.append(given) or made.evaluate(*given))

    monkeypatch.setattr(rounds, "compiled", counting)
    grid = fk.grid(client_lr=[0.1], other=[0.5, 1.0, 2.0])
    once = {"num_rounds": 1, "eval_every": 1}
    points = sweep(make, OF_SEED, grid, seeds=(4,), width=Width(1), **OPTIONS | once)
    assert len(seen) == evaluations + 3, "and each point after its round"
    assert_like_alone(make, points, **once)


@pytest.mark.thorough
def test_values_that_are_no_floats_make_groups():
    grid = fk.grid(batch_size=[3, 5], client_lr=[0.1, 0.2], other=[0.1])
    points = sweep(fedadam, OF_SEED, grid, seeds=(0,), **OPTIONS)
    assert [p.setting for p in points] == grid
    assert_like_alone(fedadam, points[:3:2])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "seeds"),
    [(GRID, (0, 4)), pytest.param(GRID[:1], (0, 4, 9), marks=pytest.mark.thorough)],
)
def test_devices_divide_points(settings: list[Any], seeds: tuple[int, ...]):
    mesh = fk.make_mesh(2, axis=program.POINTS)
    points = sweep(fedadam, OF_SEED, settings, seeds=seeds, mesh=mesh, **OPTIONS)
    assert_like_alone(fedadam, points[:2])


@pytest.mark.thorough
def test_a_diverged_point_disturbs_no_other():
    grid = fk.grid(client_lr=[0.1, 1e38, 0.2, 0.3], other=[0.1])
    points = sweep(fedprox, OF_SEED, grid, seeds=(0, 4), width=Width(1), **OPTIONS)
    lost = [p for p in points if p.setting["client_lr"] == 1e38]
    assert {p.status for p in lost} == {"diverged"}
    assert {p.score for p in lost} == {None}
    assert all(len(p.history) < 8 for p in lost)
    assert_like_alone(fedprox, [points[0], points[-1]])


@pytest.mark.thorough
def test_halving_stops_the_hopeless_and_changes_no_number():
    grid = fk.grid(client_lr=[1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3], other=[1.0])
    options = OPTIONS | {"seeds": (0, 4), "metric": "test_loss"}
    points = sweep(fedprox, OF_SEED, grid, halving=fk.Halving(eta=3, first=2), **options)
    rounds_of = {p.setting["client_lr"]: p.history[-1]["round"] for p in points}
    assert sorted(rounds_of.values()) == [3, 3, 3, 3, 6, 7]
    assert rounds_of[1e-4] == 3
    whole = sweep(fedprox, OF_SEED, grid, **options)
    best = min(whole, key=lambda p: p.score or math.inf)
    assert next(p for p in points if p.setting == best.setting).status == "finished"
    for short, long in zip(points, whole, strict=True):
        for ours, theirs in zip(short.history, long.history, strict=False):
            assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, abs=2e-5, nan_ok=True)


def family(points: int = 4) -> Family:
    s = fk.simulate(fedadam(0.1, 0.1), OF_SEED[0], chunk=1, **OPTIONS)
    members = {p: Member(p, 0, {"client_lr": 0.1 * (p + 1), "other": 0.1}) for p in range(points)}
    return family_of(lambda values: fedadam(**values), members, {0: s})


def test_less_at_once_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch):
    tried, compiled = [], rounds.compiled

    def scarce(family: Family, tile: Any, *args: Any) -> Any:
        tried.append((tile.shape, family.first.layout.chunks[0].widths))
        if tile.shape[1] * family.first.layout.chunks[0].widths[0] > 2:
            raise memory.TooLargeError("no memory")
        return compiled(family, tile, *args)

    monkeypatch.setattr(rounds, "compiled", scarce)
    with pytest.warns(UserWarning, match="going on with"):
        steps = list(rounds.train_points(family(), range(4), Width(4, clients=3), until=7))
    assert tried == [((1, 4), (3,)), ((1, 4), (1,)), ((1, 2), (1,))]
    assert set(steps[-1].rows) == {0, 1, 2, 3}


def test_no_memory_for_one_point(monkeypatch: pytest.MonkeyPatch):
    def none(*args: Any) -> Any:
        raise MemoryError("none at all")

    monkeypatch.setattr(rounds, "compiled", none)
    with pytest.raises(memory.TooLargeError, match="a smaller model"):
        list(rounds.train_points(family(), range(2), Width(1), until=7))


def test_states_wait_on_the_host_where_the_device_is_small(monkeypatch: pytest.MonkeyPatch):
    usual = list(rounds.train_points(family(), range(4), Width(2), until=7))
    monkeypatch.setattr(memory, "free", lambda: 100)
    monkeypatch.setattr(memory, "check_fits", lambda program: None)
    parked = list(rounds.train_points(family(), range(4), Width(2), until=7))
    assert parked[-1].rows == usual[-1].rows
    leaves = jax.tree.leaves(parked[-1].states())
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


@pytest.mark.thorough
def test_widths():
    few, many = family(1), family(6)
    assert widths.of_lanes(many, range(6), 4) == Width(4, 1, 1)
    assert widths.of_lanes(many, range(6), 12) == Width(6, 1, 2)
    assert widths.of_lanes(few, [0], 8) == Width(1, 1, 3)
    assert widths.choose_width(many, range(6), 7) == Width(6, 1, 3)  # a tiny model: 32 lanes
    costs = widths.measure_widths(many, range(6))
    assert set(costs) <= {1, 2, 4, 8, 16, 32}
    assert all(seconds > 0 for seconds in costs.values())


@pytest.mark.parametrize(
    ("settings", "seeds", "says"),
    [
        ([], (0,), "0 settings"),
        (GRID, (), "0 seeds"),
        (GRID, (0, 0), "name one twice"),
        ([{"client_lr": 0.1}, {"other": 0.1}], (0,), "the same parameters"),
        ([{"client_lr": math.nan, "other": 0.1}], (0,), "must be finite"),
    ],
)
def test_wrong_sweeps(settings: list[Any], seeds: tuple[int, ...], says: str):
    with pytest.raises(ValueError, match=says):
        sweep(fedadam, OF_SEED, settings, seeds=seeds, **OPTIONS)


def test_sweeps_that_one_program_cannot_run():
    with pytest.raises(ValueError, match="the engine 'jit'"):
        sweep(fedadam, OF_SEED, GRID, engine="python", **OPTIONS)
    other = {0: OF_SEED[0], 1: federation((7, 0, 1, 5, 12, 3), 1)}
    with pytest.raises(ValueError, match="the same examples"):
        sweep(fedadam, other, GRID, seeds=(0, 1), **OPTIONS)
    fewer = fk.federate(
        federations.dataset(28), lambda data: [np.arange(10), np.arange(10, 28), []]
    )
    with pytest.raises(ValueError, match="makes 3 clients"):
        sweep(fedadam, {0: OF_SEED[0], 1: fewer}, GRID, seeds=(0, 1), **OPTIONS)
