"""Decompositions of matrices that do not wait for each other.

On CPUs, jaxlib before 0.11.2 divides a batch of matrices over the very threads that run programs.
As many batches at the same time as there are threads, such as those of the layers of stacked
clients, then wait for each other forever (``jax::ParallelBatchMap``). One matrix is not divided,
so CPUs are given one at a time here, under `jax.vmap` as well; accelerators get all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


def one_by_one(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """A function that `jax.vmap` makes a loop of on CPUs; not to be differentiated.

    Args:
      function: of one array, to a tree of arrays.

    Example:
      >>> jax.vmap(one_by_one(jnp.linalg.cholesky))(4 * jnp.ones((3, 1, 1))).ravel()
      Array([2., 2., 2.], dtype=float32)
    """
    one = custom_vmap(function)

    @one.def_vmap
    def many(size: int, batched: Any, arrays: Array) -> tuple[Any, Any]:
        on_cpu = partial(jax.lax.map, one)
        found = jax.lax.platform_dependent(arrays, cpu=on_cpu, default=jax.vmap(function))
        return found, jax.tree.map(lambda _: True, found)

    return one


def eigh(matrices: Float[Array, "*B N N"]) -> tuple[Float[Array, "*B N"], Float[Array, "*B N N"]]:
    """Eigenvalues of symmetric matrices, the smallest first, and eigenvectors, a column each.

    Not to be differentiated.

    Example:
      >>> eigh(jnp.diag(jnp.array([2.0, 1.0])))[0]
      Array([1., 2.], dtype=float32)
    """
    return _each(lambda matrix: tuple(jnp.linalg.eigh(matrix)), matrices)


def svd(
    matrices: Float[Array, "*B M N"],
) -> tuple[Float[Array, "*B M R"], Float[Array, "*B R"], Float[Array, "*B R N"]]:
    """Left singular vectors, singular values, the largest first, and right ones, a row each.

    Not to be differentiated.

    Example:
      >>> svd(jnp.array([[0.0, 3.0], [2.0, 0.0]]))[1]
      Array([3., 2.], dtype=float32)
    """
    return _each(lambda matrix: tuple(jnp.linalg.svd(matrix, full_matrices=False)), matrices)


def _each(decompose: Callable[[Array], Any], matrices: Array) -> Any:
    """The decomposition over all leading axes."""
    one = one_by_one(decompose)
    for _ in matrices.shape[2:]:
        one = jax.vmap(one)
    return one(matrices)
