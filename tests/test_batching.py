"""Which examples a step sees: permutations, epochs, masks."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.batching import check_last_batch, draw, shuffled, steps_per_epochs

LAST = ["partial", "drop", "wrap"]
seeds = st.integers(0, 2**32 - 1)


@jax.jit
def images(seed: jax.Array, size: jax.Array) -> jax.Array:
    """Where positions 0, 1, ... go; only the first ``size`` entries mean anything."""
    return shuffled(seed, jnp.arange(500, dtype=jnp.int32) % size, size)


@given(seeds, st.integers(1, 500))
@settings(max_examples=200, deadline=None)
def test_shuffled_is_a_permutation(seed: int, size: int):
    there = np.asarray(images(jnp.uint32(seed), jnp.int32(size)))[:size]
    np.testing.assert_array_equal(np.sort(there), np.arange(size))


def test_shuffled_is_uniform():
    """Each of the 24 orders of four elements comes up as often as the others."""
    orders = jax.vmap(lambda s: shuffled(s, jnp.arange(4, dtype=jnp.int32), jnp.int32(4)))
    drawn = np.asarray(orders(jnp.arange(24_000, dtype=jnp.uint32)))
    _, counts = np.unique(drawn @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == 24
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_squared < 60, "23 degrees of freedom: 49.7 in one of a thousand cases"


@partial(jax.jit, static_argnums=(2, 3))
def epochs_of(seed: jax.Array, size: jax.Array, batch_size: int, last_batch: str) -> tuple:
    """Sixty steps in a row, positions and masks ``[60, B]``."""
    steps = jnp.arange(60, dtype=jnp.int32)
    return jax.vmap(lambda i: draw(seed, i, size, batch_size, last_batch))(steps)


@given(seeds, st.integers(1, 17), st.sampled_from([1, 4]), st.sampled_from(LAST))
@settings(max_examples=60, deadline=None)
def test_every_epoch_visits_what_it_should(seed: int, size: int, batch: int, last: str):
    positions, mask = epochs_of(jnp.uint32(seed), jnp.int32(size), batch, last)
    assert int(positions.min()) >= 0
    assert int(positions.max()) < size
    epochs = 3
    steps = int(steps_per_epochs(jnp.int32(size), batch, epochs, last))
    if last == "wrap":
        assert bool((mask == 1).all())
        seen = np.asarray(positions).reshape(-1)[: epochs * size].reshape(epochs, size)
        assert steps == -(-epochs * size // batch)
    else:
        each = steps // epochs
        whole = size if last == "partial" or size < batch else size // batch * batch
        counts = np.asarray(mask[:steps]).reshape(epochs, each * batch)
        np.testing.assert_array_equal(counts.sum(1), whole)
        seen = np.asarray(positions[:steps]).reshape(epochs, each * batch)
        seen = seen[counts == 1].reshape(epochs, whole)
    for epoch in seen:
        assert len(set(epoch.tolist())) == len(epoch), "no example twice in an epoch"


def test_epochs_and_seeds_differ():
    size = jnp.int32(17)
    positions, _ = epochs_of(jnp.uint32(1), size, 4, "wrap")
    one, two = np.asarray(positions).reshape(-1)[:34].reshape(2, 17)
    other = np.asarray(epochs_of(jnp.uint32(2), size, 4, "wrap")[0]).reshape(-1)[:17]
    assert (one != two).any()
    assert (one != other).any()


@pytest.mark.parametrize("last", LAST)
def test_nobody_without_examples_takes_a_step(last: str):
    assert int(steps_per_epochs(jnp.int32(0), 4, 3, last)) == 0


@pytest.mark.parametrize(
    ("last", "steps"), [("partial", [1, 1, 2, 3]), ("drop", [1, 1, 1, 2]), ("wrap", [1, 1, 2, 3])]
)
def test_steps_of_one_epoch(last: str, steps: list[int]):
    sizes = [1, 4, 5, 9]
    assert [int(steps_per_epochs(jnp.int32(n), 4, 1, last)) for n in sizes] == steps


def test_unknown_way_to_end_an_epoch():
    with pytest.raises(ValueError, match="'pad', but must be one of partial, drop, wrap"):
        check_last_batch("pad")
