"""Group normalisation: equal to Flax's, and what tasks use in its place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_kd.nn import GroupNorm
from fedjax_kd.task import from_nnx


def value_and_gradients(layer: nnx.GroupNorm, x: jax.Array) -> Any:
    """The output, and gradients by input and parameters."""
    graph, params = nnx.split(layer)

    def objective(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = nnx.merge(graph, params)(x)
        return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum(), y

    both = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (_, y), grads = both(params, x)
    return jax.tree.leaves((y, grads))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 6), (2, 5, 6), (2, 4, 3, 6), (1, 2, 2, 2, 6)])
@pytest.mark.parametrize("options", [{}, {"use_scale": False}, {"use_bias": False}])
def test_values_and_gradients_equal_flax(dtype: str, shape: Any, options: dict[str, Any]):
    # Flax promotes to float32 at least, which the strict rules refuse for float64.
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        x = jnp.asarray(np.random.default_rng(0).normal(1, 3, shape), dtype)
        pairs = []
        for kind in (GroupNorm, nnx.GroupNorm):
            layer = kind(6, 3, rngs=nnx.Rngs(0), param_dtype=jnp.dtype(dtype), **options)
            for values in (layer.scale, layer.bias):
                if values is not None:
                    values[...] = jnp.linspace(0.5, 2, 6, dtype=dtype)
            pairs.append(value_and_gradients(layer, x))
        for ours, theirs in zip(*pairs, strict=True):
            tolerance = 1e-10 if dtype == "float64" else 2e-4
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options", [{"use_fast_variance": False}, {"reduction_axes": (1, -1)}], ids=str
)
def test_unusual_settings_are_flax_own(options: dict[str, Any]):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32)
    ours, theirs = (k(6, 3, rngs=nnx.Rngs(0), **options)(x) for k in (GroupNorm, nnx.GroupNorm))
    np.testing.assert_array_equal(ours, theirs)


def test_bfloat16_is_summed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (2, 30, 30, 4)), jnp.bfloat16)
    layers = [
        kind(4, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)) for kind in (GroupNorm, nnx.GroupNorm)
    ]
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (layer(x) for layer in layers)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=0.02, atol=0.02
    )


def test_tasks_use_it_for_ordinary_modules_and_leave_others_alone():
    class Own(nnx.GroupNorm):
        def __call__(self, x: jax.Array, *, mask: Any = None) -> jax.Array:
            return 2 * x

    seen = []

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.norm, self.own = nnx.GroupNorm(4, 2, rngs=rngs), Own(4, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            seen.append((type(self.norm), type(self.own)))
            return self.norm(self.own(x))

    task = from_nnx(Model)
    y, _ = task.apply(task.init(jax.random.key(0)), jnp.arange(24.0).reshape(2, 3, 4))
    assert seen == [(GroupNorm, Own)]
    np.testing.assert_allclose(
        y, nnx.GroupNorm(4, 2, rngs=nnx.Rngs(0))(2 * jnp.arange(24.0).reshape(2, 3, 4)), atol=1e-5
    )
