"""Arithmetic on pytrees of arrays: optax's, and what it lacks.

``where`` (a choice without a branch) and ``zeros_like`` are `optax.tree`'s. A number that
multiplies a tree takes each leaf's own dtype here, so that half precision stays half.

Models also hold counters and flags. A difference of two (`sub`) is a signed number, a multiple
(`scale`) or a mean of such differences is a float, and what is moved by one (`add`) keeps its type:
the mean of several models' counters is rounded to the nearest.

Example:
  >>> add({"w": 1.0}, {"w": 2.0}), sub({"w": 1.0}, {"w": 2.0})
  ({'w': 3.0}, {'w': -1.0})
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from optax.tree import where, zeros_like

from fedjax_kd.core import PyTree, mean
from fedjax_kd.errors import InputTypeError

__all__ = [
    "add",
    "add_scaled",
    "cast_like",
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


def add(a: PyTree, b: PyTree) -> PyTree:
    """``a + b``, each leaf of the dtype that it has in ``a``.

    An integer or a boolean that a float moves is rounded to the nearest as `jnp.round` does, halves
    to the even one, and stays in the range of its type.

    Raises:
      TypeError: if a leaf is no number, such as a random key; the message names it.

    Example:
      >>> add({"seen": jnp.uint32(3), "w": 1.0}, {"seen": -0.75, "w": 2.0})
      {'seen': Array(2, dtype=uint32), 'w': 3.0}
    """
    return jax.tree_util.tree_map_with_path(_added, a, b)


def sub(a: PyTree, b: PyTree) -> PyTree:
    """``a - b``, leaf by leaf; a difference of integers or booleans has a sign, whatever theirs.

    Raises:
      TypeError: if a leaf is no number, such as a random key; the message names it.

    Example:
      >>> sub({"seen": jnp.uint8(3)}, {"seen": jnp.uint8(200)})
      {'seen': Array(-197, dtype=int32)}
    """
    return jax.tree_util.tree_map_with_path(_difference, a, b)


def neg(a: PyTree) -> PyTree:
    """``-a``, leaf by leaf."""
    return jax.tree.map(operator.neg, a)


def scale(factor: ArrayLike, a: PyTree) -> PyTree:
    """``factor * a``, each leaf in its own dtype, but multiples of integers are floats.

    Example:
      >>> scale(0.5, jnp.int32(3)), scale(0.5, jnp.float16(3))
      (Array(1.5, dtype=float32), Array(1.5, dtype=float16))
    """

    def scaled(x: Any) -> Array:
        x = x if _is_inexact(x) else jnp.asarray(x).astype(jnp.float32)
        return x * jnp.asarray(factor, x.dtype)

    return jax.tree.map(scaled, a)


def dot(a: PyTree, b: PyTree) -> Array:
    """The inner product over all leaves, a scalar, not rounded to short matrix formats."""
    with jax.numpy_dtype_promotion("standard"):  # of leaves of several dtypes
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


def cast_like(values: PyTree, a: PyTree) -> PyTree:
    """The values in the dtypes of ``a``; what becomes an integer or a boolean is rounded.

    Example:
      >>> cast_like(jnp.array([0.4, 2.6]), jnp.zeros(2, jnp.uint8))
      Array([0, 3], dtype=uint8)
    """
    return jax.tree.map(_cast_like, values, a)


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


def _cast_like(value: Any, x: Any) -> Any:
    dtype = jnp.result_type(x)
    if jnp.result_type(value) == dtype:
        return value
    rounds = _is_inexact(value) and not _is_inexact(x)
    return (jnp.round(value) if rounds else jnp.asarray(value)).astype(dtype)


def _added(path: tuple, x: Any, change: Any) -> Any:
    dtype = _number(path, x)
    if _number(path, change) == dtype and not _is_bool(dtype):
        return x + change
    if jnp.issubdtype(dtype, jnp.inexact):
        with jax.numpy_dtype_promotion("standard"):
            return (x + change).astype(dtype)
    x, wide = jnp.asarray(x), _signed(dtype)
    if not _is_inexact(change):
        return (x.astype(wide) + change.astype(wide)).astype(dtype)
    return _rounded(x, change)


def _rounded(x: Array, change: Array) -> Array:
    """The nearest value of x's type to ``x + change``; in integers, since x may be large."""
    whole = jnp.floor(change)
    rest, odd = change - whole, (x.astype(jnp.uint32) % 2 == 1) ^ (whole % 2 == 1)
    steps = whole + ((rest > 0.5) | (rest == 0.5) & odd).astype(whole.dtype)
    low, high = (0, 1) if _is_bool(x.dtype) else (jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max)
    wide = jnp.uint64 if x.dtype.itemsize > 4 else jnp.uint32  # modulo 2^32 nothing overflows
    number, size = x.astype(wide), jnp.abs(steps).astype(wide)
    up = number + jnp.minimum(size, jnp.asarray(high, x.dtype).astype(wide) - number)
    down = number - jnp.minimum(size, number - jnp.asarray(low, x.dtype).astype(wide))
    return jnp.where(steps > 0, up, down).astype(x.dtype)


def _difference(path: tuple, x: Any, y: Any) -> Any:
    dtypes = _number(path, x), _number(path, y)
    if _is_inexact(x) or _is_inexact(y):
        with jax.numpy_dtype_promotion("standard"):
            return x - y
    wide = _signed(*dtypes)
    return jnp.asarray(x).astype(wide) - jnp.asarray(y).astype(wide)


def _signed(*dtypes: Any) -> Any:
    """Of the integers that hold differences of these, the type."""
    return jnp.int64 if any(jnp.dtype(dtype).itemsize > 4 for dtype in dtypes) else jnp.int32


def _is_bool(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.bool_))


def _is_inexact(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _number(path: tuple, x: Any) -> Any:
    """The dtype of a leaf that can be added and averaged."""
    dtype = jnp.result_type(x)
    if not (jnp.issubdtype(dtype, jnp.number) or _is_bool(dtype)):
        raise InputTypeError(
            f"At {jax.tree_util.keystr(path) or 'the root'} there is a value of type {dtype}, "
            "which has no differences and no mean: a model may hold floats, integers and "
            "booleans, and random keys only in streams (`nnx.Rngs`, Linen's `make_rng`)."
        )
    return dtype
