"""Tasks from modules with habits of their own: flags, sown values, shared parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from fedjax_kd.task import from_linen, from_nnx

KEY = jax.random.key(0)


class Train(linen.Module):
    """A module whose flag is called ``train``."""

    @linen.compact
    def __call__(self, x, train):
        return linen.Dropout(0.5)(linen.Dense(64)(x), deterministic=not train)


def test_a_wrong_train_argument_says_what_is_possible():
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="train_argument is 'fit'"):
        from_linen(Train(), x, train_argument="fit")
    with pytest.raises(TypeError, match=r"Train takes .*train"):
        from_linen(Train(), x, train_argument="deterministic")


class Deterministic(linen.Module):
    """A module whose flag says the opposite, and that sows an intermediate value."""

    @linen.compact
    def __call__(self, x, deterministic):
        self.sow("intermediates", "input", x)
        return linen.Dropout(0.5)(linen.Dense(64)(x), deterministic=deterministic)


def test_a_flag_that_says_the_opposite_is_turned_round():
    task = from_linen(Deterministic(), jnp.ones((1, 2)))
    model = task.init(KEY)
    assert model.stats == {}
    assert (task.apply(model, jnp.ones((1, 2)))[0] != 0).all()
    assert (task.apply(model, jnp.ones((1, 2)), KEY)[0] == 0).any()


class Sowing(nnx.Module):
    """A module that sows an intermediate value."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        self.sow(nnx.Intermediate, "input", x)
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:.*sow")
def test_what_a_module_sows_is_no_statistic():
    task = from_nnx(Sowing)
    model = task.init(KEY)
    assert task.apply(model, jnp.ones((1, 2)), KEY)[1] == model.stats == {}


def test_one_module_used_twice_has_one_set_of_parameters():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 2, rngs=rngs)
            self.second = self.first

        def __call__(self, x):
            return self.second(self.first(x))

    task = from_nnx(Tied)
    model = task.init(KEY)
    assert len(jax.tree.leaves(model.params)) == 2
    kernel = model.params["first"]["kernel"]
    np.testing.assert_allclose(task.apply(model, jnp.eye(2))[0], kernel @ kernel, atol=1e-6)
