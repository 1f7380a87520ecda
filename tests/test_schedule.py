"""Where clients sit: plans of chunks, layouts, schedules and what they cost."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.backends import backend_of
from fedjax_kd.data import sampling
from fedjax_kd.engine import chunk_width, schedule
from fedjax_kd.engine.block_cohorts import block_cohorts
from fedjax_kd.engine.schedule import Chunks, Layout, lay_out

WIDTHS = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted)


def chunks_of(widths: list[int]) -> Chunks:
    """Chunks whose steps cost two lanes beside those that they hold."""
    return Chunks(tuple(widths), tuple(2.0 + width for width in widths))


def single(clients: int, cohort_size: int, *widths: int) -> Layout:
    """The layout of one group on one device."""
    chunks = chunks_of(list(widths))
    return lay_out([range(clients)], clients, cohort_size, [chunks], work=[lambda n, *_: n])


@st.composite
def placements(draw: Any) -> tuple[Layout, np.ndarray, np.ndarray, np.ndarray]:
    """A layout, the group of each client, a cohort and the clients' sizes."""
    population = draw(st.integers(1, 30))
    groups = draw(st.integers(1, min(3, population)))
    group_of = np.array([*range(groups), *draw_list(draw, population - groups, groups)])
    size = draw(st.integers(1, population))
    ids = np.array(draw(st.permutations(range(population)))[: draw(st.integers(0, size))], int)
    layout = lay_out(
        [np.flatnonzero(group_of == g) for g in range(groups)],
        population,
        size,
        [chunks_of(draw(WIDTHS)) for _ in range(groups)],
        work=[lambda n, *_: -(-n // 3)] * groups,
        devices=draw(st.integers(1, 4)),
    )
    return layout, group_of, ids, np.array(draw_list(draw, population, 20))


def draw_list(draw: Any, length: int, below: int) -> list[int]:
    """Numbers in ``range(below)``."""
    return draw(st.lists(st.integers(0, below - 1), min_size=length, max_size=length))


@given(placements())
@settings(max_examples=200, deadline=None)
def test_everyone_sits_once_in_a_chunk_and_the_longest_work_comes_first(placement: Any):
    layout, group_of, ids, sizes = placement
    taken, computed = [], 0.0
    for group, (slots, chunks, _) in enumerate(layout.place(ids, sizes[ids])[0]):
        widths, places = layout.chunks[group].widths, layout.num_slots(group)
        assert slots.dtype == chunks.dtype == np.int32
        assert len(slots) == layout.devices * places
        for own, counts in zip(
            slots.reshape(layout.devices, -1), chunks.reshape(layout.devices, -1), strict=True
        ):
            present = own[own < layout.population]
            assert (own[len(present) :] == layout.population).all()
            seated = int(np.dot(counts, widths))
            assert len(present) <= seated <= places, "every chunk ends inside the array"
            work = layout.work[group](sizes[present])
            assert (np.diff(work) <= 0).all()
            first = 0
            for width, count in zip(widths, counts, strict=True):
                for _ in range(count):
                    computed += width * (work[first] if first < len(work) else 0)
                    first += width
            assert (group_of[present] == group).all()
            taken += present.tolist()
    assert sorted(taken) == sorted(ids.tolist())
    effort = layout.place(ids, sizes[ids])[1]
    assert effort.needed == sum(-(-sizes[ids] // 3))
    assert effort.computed == computed >= effort.needed


@given(placements(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_seats_do_not_depend_on_the_order_of_a_cohort(placement: Any, random: Any):
    layout, _, ids, sizes = placement
    other = ids.tolist()
    random.shuffle(other)
    other = np.array(other, int)
    for one, two in zip(
        layout.place(ids, sizes[ids])[0], layout.place(other, sizes[other])[0], strict=True
    ):
        np.testing.assert_array_equal(one.slots, two.slots)
        np.testing.assert_array_equal(one.chunks, two.chunks)


@given(st.lists(st.integers(0, 9), max_size=9), WIDTHS)
@settings(max_examples=200, deadline=None)
def test_no_other_plan_is_cheaper(work: list[int], widths: list[int]):
    work, chunks = sorted(work, reverse=True), chunks_of(widths)
    counts = schedule.plan(work, chunks)
    most = [range(-(-len(work) // width) + 1) for width in widths]
    enough = [c for c in product(*most) if np.dot(c, widths) >= len(work)]
    cheapest = min(schedule.cost(work, chunks, c) for c in enough)
    assert np.dot(counts, widths) >= len(work)
    assert schedule.cost(work, chunks, counts) == pytest.approx(cheapest)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4]), st.sampled_from([1, 4, 5, 10]))
@settings(max_examples=30, deadline=None)
def test_schedules_do_not_depend_on_blocks(seed: int, rate: float, block: int):
    layout, sampler = single(12, 5, 1, 3), sampling.uniform(12, 5)

    def cohort_of(number: int) -> sampling.Cohort:
        return sampling.participants(sampler, 12, seed, number, rate)

    def cut(size: int) -> np.ndarray:
        drawn = [
            block_cohorts(cohort_of, layout, np.arange(12).take, first=r, rounds=size, last=20)
            for r in range(0, 20, size)
        ]
        return np.concatenate([each.groups[0].slots for each in drawn])

    np.testing.assert_array_equal(cut(block), cut(20))


def test_rounds_after_the_last_are_empty():
    layout = single(6, 3, 3)
    drawn = block_cohorts(
        partial(sampling.participants, sampling.uniform(6, 3), 6, 0),
        layout,
        np.ones(6, int).take,
        first=2,
        rounds=4,
        last=4,
    )
    ((slots, *_),) = drawn.groups
    assert (slots[:2] < 6).all()
    assert (slots[2:] == 6).all()
    assert [e.needed for e in drawn.work] == [3, 3, 0, 0]


def test_a_cohort_larger_than_the_room_is_an_error():
    with pytest.raises(ValueError, match="has 4 clients of one group, but there is room for 3"):
        single(6, 3, 3).place(np.arange(4), np.ones(4, int))


@pytest.mark.parametrize("widths", [(0,), (-1,), (), (4, 1), (2, 2)])
def test_widths_that_cannot_be(widths: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"at least 1 client .* several that ascend"):
        single(6, 3, *widths)


def test_a_ragged_federation_wastes_little():
    """Log-normal sizes of sigma 1.5, cohorts of 100, by the rule for a CPU."""
    rng = np.random.default_rng(0)
    examples = np.maximum(np.rint(100 * rng.lognormal(0, 1.5, 2000)), 1).astype(int)
    steps = -(-examples // 20)
    cohorts = [np.sort(rng.choice(steps, 100, replace=False))[::-1].tolist() for _ in range(20)]
    chunks = chunk_width.cheapest(chunk_width.assumed_costs(backend_of("cpu"), 32, 100), cohorts)
    each = Chunks(chunks.widths, chunks.widths)
    computed = sum(schedule.cost(w, each, schedule.plan(w, chunks)) for w in cohorts)
    assert len(chunks.widths) > 1
    assert computed / sum(map(sum, cohorts)) < 1.15
