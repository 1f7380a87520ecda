"""Arithmetic on pytrees of arrays: optax's, and what it lacks.

``add``, ``sub``, ``where`` (a choice without a branch) and ``zeros_like`` are `optax.tree`'s. A
number that multiplies a tree takes each leaf's own dtype here, so that half precision stays half.

Example:
  >>> add({"w": 1.0}, {"w": 2.0}), sub({"w": 1.0}, {"w": 2.0})
  ({'w': 3.0}, {'w': -1.0})
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from optax.tree import add, sub, where, zeros_like

from fedjax_kd.core import PyTree, mean

__all__ = [
    "add",
    "add_scaled",
    "dot",
    "is_finite",
    "neg",
    "num_bytes",
    "reads",
    "scale",
    "sq_norm",
    "sub",
    "weighted_mean",
    "where",
    "zeros_like",
]


def neg(a: PyTree) -> PyTree:
    """``-a``, leaf by leaf."""
    return jax.tree.map(operator.neg, a)


def scale(factor: ArrayLike, a: PyTree) -> PyTree:
    """``factor * a``, each leaf in its own dtype."""
    return jax.tree.map(lambda x: x * jnp.asarray(factor, x.dtype), a)


def dot(a: PyTree, b: PyTree) -> Array:
    """The inner product over all leaves, a scalar, not rounded to short matrix formats."""
    return jnp.asarray(optax.tree.vdot(a, b))


def sq_norm(a: PyTree) -> Array:
    """The squared Euclidean norm over all leaves, a scalar.

    Example:
      >>> float(sq_norm({"w": jnp.array([3.0, 4.0])}))
      25.0
    """
    return dot(a, a)


def is_finite(a: PyTree) -> Array:
    """Whether no leaf holds a NaN or an infinity, a scalar."""
    inexact = [x for x in jax.tree.leaves(a) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in inexact], bool))


def num_bytes(a: PyTree) -> int:
    """Bytes of all leaves; works on arrays and on the shapes that ``jax.eval_shape`` gives.

    Example:
      >>> num_bytes({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
      36
    """
    return sum(int(x.size) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(a))


def add_scaled(a: PyTree, factor: ArrayLike, b: PyTree) -> PyTree:
    """``a + factor * b``, each leaf in its own dtype."""
    return add(a, scale(factor, b))


def weighted_mean(a: PyTree, votes: Float[Array, " K"]) -> PyTree:
    """The mean over the first axis, leaf by leaf, as the reducer `fedjax_kd.core.mean` takes it.

    Example:
      >>> weighted_mean(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]))
      Array(2., dtype=float32)
    """
    chex.assert_tree_shape_prefix(a, votes.shape)
    return jax.tree.map(lambda x: mean.finalise(*mean.accumulate(x, votes, votes)), a)


def reads(function: Callable[[PyTree, PyTree], PyTree], tree: PyTree, rest: PyTree) -> PyTree:
    """Which leaves of a tree the result of ``function(tree, rest)`` depends on.

    Args:
      function: is traced, not carried out.
      tree: of arrays, or of what stands for them.
      rest: the other argument.

    Returns:
      A tree of bools.

    Example:
      >>> reads(lambda weights, x: weights["w"] * x, {"w": 1.0, "unused": 2.0}, 3.0)
      {'unused': False, 'w': True}
    """
    program = jax.make_jaxpr(function)(tree, rest).jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, used[: len(leaves)])
