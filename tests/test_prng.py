"""Cheap random bits: as good as dropout needs, and the same with and without ``vmap``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from scipy import stats

from fedjax_kd.prng import cheap
from fedjax_kd.task import Task, from_linen, from_nnx

DRAWS = 1 << 16


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_of_a_word_is_uniform(seed: int, shift: int):
    bits = np.asarray(jax.random.bits(cheap(jax.random.key(seed)), (DRAWS,)))
    counts = np.bincount((bits >> shift) & 255, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_in_place_and_in_key_are_unrelated():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(64))
    draws = np.asarray(jax.vmap(lambda k: jax.random.normal(cheap(k), (1024,)))(keys))
    one_step = [np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]]
    one_step += [np.corrcoef(draws[:, :-n].ravel(), draws[:, n:].ravel())[0, 1] for n in (1, 2, 8)]
    assert np.abs(one_step).max() < 4 / np.sqrt(draws.size)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-4


def test_a_batch_of_keys_draws_what_each_key_draws_alone():
    keys = jax.random.split(jax.random.key(1), 5)
    together = jax.vmap(lambda k: jax.random.uniform(cheap(k), (7, 3)))(keys)
    alone = jnp.stack([jax.random.uniform(cheap(k), (7, 3)) for k in keys])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint16, jnp.uint32])
def test_short_words_use_their_whole_range(dtype: type):
    bits = jax.random.bits(cheap(jax.random.key(2)), (DRAWS,), dtype)
    top = jnp.iinfo(dtype).max
    assert bits.dtype == dtype
    assert int(bits.max()) > 0.99 * top
    assert abs(float(bits.astype(jnp.float32).mean()) / top - 0.5) < 0.01


def test_long_words_are_not_one_word_twice():
    with jax.enable_x64(True):
        draws = jax.random.uniform(cheap(jax.random.key(2)), (DRAWS,), jnp.float64)
        bits = np.asarray(jax.random.bits(cheap(jax.random.key(2)), (DRAWS,), jnp.uint64))
    assert stats.kstest(np.asarray(draws), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF))[0, 1]) < 0.02


class Drop(linen.Module):
    """Nothing but dropout."""

    @linen.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return linen.Dropout(0.25, deterministic=not train)(x)


@pytest.mark.parametrize(
    "task",
    [from_nnx(lambda rngs: nnx.Dropout(0.25, rngs=rngs)), from_linen(Drop(), jnp.ones((1, 4)))],
    ids=["nnx", "linen"],
)
def test_flax_modules_draw_from_it_and_drop_the_share_they_are_told(task: Task):
    x = jnp.ones((64, 1024))
    model = task.init(jax.random.key(0))
    program = jax.make_jaxpr(lambda key: task.apply(model, x, key))(jax.random.key(1))
    assert "key<cheap>" in str(program)
    kept = task.apply(model, x, jax.random.key(1))[0] != 0
    assert abs(float(kept.mean()) - 0.75) < 4 * (0.25 * 0.75 / x.size) ** 0.5
    other = task.apply(model, x, jax.random.key(2))[0] != 0
    assert 0.6 < float((kept == other).mean()) < 0.65  # 0.75**2 + 0.25**2 of the places agree
