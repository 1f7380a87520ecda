"""Reducers: any order, any cutting into chunks, any grouping gives the same."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.core import mean, stack, total, uniform_mean
from fedjax_kd.engine import aggregation

ALL = {"mean": mean, "uniform": uniform_mean, "total": total, "stack": stack}
K = 6

weights = st.lists(st.integers(0, 9), min_size=K, max_size=K)
presence = st.lists(st.integers(0, 1), min_size=K, max_size=K)
seeds = st.integers(0, 2**16)


def messages(seed: int) -> dict[str, Any]:
    """A message of K clients under each reducer, two leaves each."""
    rng = np.random.default_rng(seed)
    one = {"w": rng.normal(size=(K, 2, 3)), "b": rng.normal(size=K)}
    one = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), one)
    return dict.fromkeys(ALL, one)


def lifted(seed: int, votes: Any, present: Any, where: slice | np.ndarray = slice(None)) -> Any:
    """The sums of some of the clients; who is absent has no votes."""
    present = np.array(present, np.float32)
    votes = np.array(votes, np.float32) * present
    some = jax.tree.map(lambda a: a[where], messages(seed))
    return aggregation.accumulate(ALL, some, jnp.asarray(votes[where]), jnp.asarray(present[where]))


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


@given(seeds, weights, presence)
@settings(max_examples=30, deadline=None)
def test_what_they_mean(seed: int, votes: list[int], present: list[int]):
    update = aggregation.finalise(ALL, lifted(seed, votes, present))
    values = np.asarray(messages(seed)["mean"]["w"], float)
    p = np.array(present, float)
    v = np.array(votes, float) * p
    summed = np.einsum("k,kij->ij", p, values)
    np.testing.assert_allclose(update["total"]["w"], summed, atol=1e-5)
    np.testing.assert_allclose(update["uniform"]["w"], summed / max(p.sum(), 1), atol=1e-5)
    expected = np.einsum("k,kij->ij", v, values) / max(v.sum(), 1)
    np.testing.assert_allclose(update["mean"]["w"], expected, atol=1e-5)
    np.testing.assert_array_equal(update["stack"]["w"], np.float32(values))


@given(seeds, weights, presence, st.integers(1, K - 1))
@settings(max_examples=30, deadline=None)
def test_chunks_add_up(seed: int, votes: list[int], present: list[int], cut: int):
    whole = lifted(seed, votes, present)
    halves = (lifted(seed, votes, present, slice(a, b)) for a, b in ((0, cut), (cut, K)))
    close(aggregation.add_sums(ALL, *halves), whole)


@given(seeds, weights, presence, st.permutations(range(K)))
@settings(max_examples=30, deadline=None)
def test_order_is_irrelevant(seed: int, votes: list[int], present: list[int], order: list[int]):
    one = aggregation.finalise(ALL, lifted(seed, votes, present))
    two = aggregation.finalise(ALL, lifted(seed, votes, present, np.array(order)))
    two["stack"] = jax.tree.map(lambda a: a[np.argsort(order)], two["stack"])
    close(one, two)


def test_select_and_join_are_inverse():
    sums = lifted(0, [1] * K, [1] * K)
    parts = [aggregation.select(ALL, sums, stacked=s) for s in (False, True)]
    assert parts[0]["stack"] == ()
    assert parts[1]["mean"] == ()
    close(aggregation.join(ALL, *parts), sums)


def test_one_reducer_stands_for_a_tree():
    one = messages(0)["mean"]
    votes = jnp.ones(K)
    close(
        aggregation.finalise(mean, aggregation.accumulate(mean, one, votes, votes)),
        jax.tree.map(lambda a: a.mean(0), one),
    )


def test_groups_share_entries_of_the_same_name():
    votes = jnp.ones(2)

    def group(value: float, **own: float) -> Any:
        message = {name: jnp.full(2, v) for name, v in {"shared": value, **own}.items()}
        return aggregation.accumulate(dict.fromkeys(message, mean), message, votes, votes)

    sums = [group(1.0, a=5.0), group(3.0, b=7.0)]
    rules = [{"shared": mean, "a": mean}, mean]
    update = aggregation.finalise(*aggregation.merge(rules, sums))
    assert {name: float(v) for name, v in update.items()} == {"shared": 2.0, "a": 5.0, "b": 7.0}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_short_formats_are_summed_in_float32(dtype: str):
    """300 ones in bfloat16 would stick at 256."""
    values, votes = jnp.ones(300, dtype), jnp.ones(300)
    assert (
        float(aggregation.finalise(total, aggregation.accumulate(total, values, votes, votes)))
        == 300
    )
    assert (
        float(aggregation.finalise(mean, aggregation.accumulate(mean, values, votes, votes))) == 1
    )
