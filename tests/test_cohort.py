"""Who takes part: samplers, seats and schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd import cohort


@st.composite
def seatings(draw: Any) -> tuple[cohort.Layout, np.ndarray, np.ndarray, np.ndarray]:
    """A layout, the group of each client, a cohort and the clients' sizes."""
    population = draw(st.integers(1, 30))
    groups = draw(st.integers(1, min(3, population)))
    group_of = np.array([*range(groups), *draw_list(draw, population - groups, groups)])
    size = draw(st.integers(1, population))
    ids = np.array(draw(st.permutations(range(population)))[: draw(st.integers(0, size))], int)
    layout = cohort.lay_out(group_of, size, draw(st.integers(1, 8)), draw(st.integers(1, 4)))
    return layout, group_of, ids, np.array(draw_list(draw, population, 20))


def draw_list(draw: Any, length: int, below: int) -> list[int]:
    """Numbers in ``range(below)``."""
    return draw(st.lists(st.integers(0, below - 1), min_size=length, max_size=length))


@given(seatings())
@settings(max_examples=200, deadline=None)
def test_everyone_is_seated_once(seating: Any):
    layout, group_of, ids, sizes = seating
    taken = []
    for group, seats in enumerate(layout.seats(ids, sizes)):
        assert seats.dtype == np.int32
        assert len(seats) == layout.places[group]
        assert len(seats) % (layout.width[group] * layout.devices) == 0
        present = seats[seats < layout.population]
        assert (group_of[present] == group).all()
        assert (seats[seats >= layout.population] == layout.population).all()
        taken += present.tolist()
    assert sorted(taken) == sorted(ids.tolist())


@given(seatings())
@settings(max_examples=100, deadline=None)
def test_the_longest_work_comes_first(seating: Any):
    layout, _, ids, sizes = seating
    for group, seats in enumerate(layout.seats(ids, sizes)):
        width, padded = layout.width[group], np.append(sizes, -1)
        by_device = seats.reshape(layout.devices, -1, width)
        turns = by_device.swapaxes(0, 1).reshape(-1)  # chunk by chunk over all devices
        assert (np.diff(padded[turns]) <= 0).all()


@given(seatings(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_seats_do_not_depend_on_the_order_of_a_cohort(seating: Any, random: Any):
    layout, _, ids, sizes = seating
    other = ids.tolist()
    random.shuffle(other)
    for one, two in zip(
        layout.seats(ids, sizes), layout.seats(np.array(other, int), sizes), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4]), st.sampled_from([1, 4, 5, 10]))
@settings(max_examples=30, deadline=None)
def test_schedules_do_not_depend_on_blocks(seed: int, rate: float, block: int):
    layout = cohort.lay_out(np.zeros(12, int), 5, chunk=2)
    sampler, sizes = cohort.uniform(12, 5), np.arange(12)

    def cut(size: int) -> np.ndarray:
        blocks = [
            cohort.schedule(
                sampler, layout, sizes, seed=seed, first=r, rounds=size, last=20, dropout_rate=rate
            )[0]
            for r in range(0, 20, size)
        ]
        return np.concatenate(blocks)

    np.testing.assert_array_equal(cut(block), cut(20))


def test_rounds_after_the_last_are_empty():
    layout = cohort.lay_out(np.zeros(6, int), 3, chunk=3)
    options = {"seed": 0, "first": 2, "rounds": 4, "last": 4}
    (seats,) = cohort.schedule(cohort.uniform(6, 3), layout, np.ones(6, int), **options)
    assert (seats[:2] < 6).all()
    assert (seats[2:] == 6).all()


def test_dropout_takes_its_share():
    layout = cohort.lay_out(np.zeros(50, int), 50, chunk=50)
    options = {"seed": 1, "first": 0, "rounds": 100, "last": 100, "dropout_rate": 0.3}
    (seats,) = cohort.schedule(cohort.uniform(50, 50), layout, np.ones(50, int), **options)
    assert abs((seats == 50).mean() - 0.3) < 0.03


def test_samplers():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([cohort.uniform(10, 3)(rng, 0) for _ in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=10) / len(drawn), 0.1, atol=0.02)
    weighted = cohort.weighted([0, 1, 3], 1)
    counts = np.bincount([weighted(rng, 0)[0] for _ in range(2000)], minlength=3) / 2000
    np.testing.assert_allclose(counts, [0, 0.25, 0.75], atol=0.04)
    given_ids = cohort.given([[1, 2], [0]])
    assert [given_ids(rng, n).tolist() for n in range(3)] == [[1, 2], [0], [1, 2]]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: cohort.uniform(3, 4), "cohort_size is 4, but must be between 1 and the 3"),
        (lambda: cohort.uniform(3, 0), "cohort_size is 0"),
        (lambda: cohort.weighted([1, 0, 0], 2), "have 1 positive entries"),
        (lambda: cohort.weighted([1, -1], 1), "a minimum of -1.0"),
        (lambda: cohort.weighted([1, np.nan], 1), "must be finite"),
        (lambda: cohort.given([]), "at least one client"),
        (lambda: cohort.given([[1, 1]]), "none twice"),
        (lambda: cohort.lay_out(np.zeros(3, int), 2, chunk=0), "chunk is 0"),
    ],
)
def test_bad_arguments(make: Any, match: str):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([0, 7], "names client 7, but clients are numbered from 0 to 5"),
        ([-1], "names client -1"),
        ([0, 1, 2, 3], "has 4 clients of one group, but there is room for 3"),
        ([2, 2], "client 2 twice"),
    ],
)
def test_cohorts_that_cannot_be(ids: list[int], match: str):
    layout = cohort.lay_out(np.zeros(6, int), 3, chunk=3)
    options = {"seed": 0, "first": 0, "rounds": 1, "last": 1}
    with pytest.raises(ValueError, match=match):
        cohort.schedule(lambda rng, n: np.array(ids), layout, np.ones(6, int), **options)


def test_samplers_by_name(tmp_path: Path):
    sizes, rng = np.array([0, 5, 0, 5]), np.random.default_rng(0)
    assert set(cohort.named("examples", sizes, 2)(rng, 0).tolist()) == {1, 3}
    assert len(cohort.named("uniform", sizes, 3)(rng, 0)) == 3
    file = tmp_path / "cohorts.json"
    file.write_text("[[0, 2], [3]]")
    sampler = cohort.named(str(file), sizes, 2)
    assert [sampler(rng, number).tolist() for number in range(3)] == [[0, 2], [3], [0, 2]]


@pytest.mark.parametrize("text", ["", "7", "[7]", '[["a"]]', "[[0.5]]"])
def test_a_file_that_holds_no_cohorts_is_an_error(tmp_path: Path, text: str):
    file = tmp_path / "cohorts.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="list of client numbers for each round"):
        cohort.named(str(file), np.ones(3), 2)
    with pytest.raises(ValueError, match="'uniform', 'examples', or a JSON file"):
        cohort.named("unifrom", np.ones(3), 2)
