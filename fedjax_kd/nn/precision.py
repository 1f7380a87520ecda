"""The number format of clients' arithmetic; their weights are float32 in each.

``None``: as JAX is set. Its own default lets GPUs multiply float32 matrices in tensorfloat32 (10
bits of mantissa, float32 has 23), and TPUs in bfloat16 (7 bits); CPUs multiply in float32.

``"float32"``: every matrix product in full float32, on every device.

``"tf32"``: float32 arrays, products in tensorfloat32 on GPUs that have it and in three bfloat16
passes on TPUs. On CPUs the same as ``"float32"``.

``"bfloat16"``: mixed precision (Micikevicius et al., 2018; bfloat16 has float32's range, so no loss
scaling). Each call of the model reads a bfloat16 copy of the float32 weights; activations and their
gradients are bfloat16, the gradient by the weights arrives as float32. Normalisation and its
statistics, logits, loss, optimisers and every average over clients are float32. A layer whose
``dtype`` the module sets itself keeps it.

Source: Micikevicius et al., Mixed Precision Training, 2018, arXiv 1710.03740.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from fedjax_kd.backends import backend_here
from fedjax_kd.core import Key, PyTree, Variables
from fedjax_kd.errors import warn
from fedjax_kd.options import check_choice

Precision = Literal["float32", "tf32", "bfloat16"]

Call = Callable[[Variables, PyTree, Key | None, str], tuple[Array, PyTree]]
"""(variables, x, key, method) -> outputs, new stats: one call of a model's method."""

Arrays = TypeVar("Arrays", bound=tuple)

_LINEN_PRODUCTS = (
    linen.Dense,
    linen.DenseGeneral,
    linen.Einsum,
    linen.Conv,
    linen.ConvLocal,
    linen.ConvTranspose,
)


def with_precision(call: Call, precision: Precision | None) -> Call:
    """The same call of a model, computed in ``precision``.

    Args:
      call: of a model; in ``"bfloat16"`` its floating inputs are cast, integers are not.
      precision: see the module's docstring; None changes nothing.

    Raises:
      ValueError: if ``precision`` is unknown.

    Example:
      >>> def product(variables, x, key, method):
      ...     return x @ variables.params, variables.stats
      >>> short = with_precision(product, "bfloat16")
      >>> weights = Variables(jnp.array([[1.001]]))
      >>> short(weights, jnp.array([[1.0]]), None, "__call__")[0]
      Array([[1.]], dtype=float32)
    """
    if precision is None:
        return call
    advice = "take float32 for exact products, bfloat16 for short ones."
    check_choice("precision", precision, Precision, advice)
    if precision != "bfloat16":
        return _with_products(call, precision)
    if backend_here().platform == "cpu":
        warn(
            "precision is bfloat16 on a CPU, where XLA rounds long sums after every addition: "
            "gradients of the biases of convolutions are off by several per cent, and nothing is "
            "faster. Take float32 here."
        )
    return _in_bfloat16(call)


def shorten_layers(model: nnx.Module) -> None:
    """Has the layers of an NNX module compute in bfloat16, unless they say otherwise themselves."""

    def undecided(path: Any, module: Any) -> bool:
        # An embedding that was given no dtype writes down its parameter's.
        free = jnp.float32 if isinstance(module, nnx.Embed) else None
        return getattr(module, "dtype", ...) == free

    norms = nnx.All(nnx.OfType(nnx.BatchNorm), undecided)
    model.set_attributes(norms, raise_if_not_found=False, promote_dtype=_in_float32)
    model.set_attributes(undecided, raise_if_not_found=False, dtype=jnp.bfloat16)


def _with_products(call: Call, precision: Literal["float32", "tf32"]) -> Call:
    """A call whose matrix products, and those of its gradient, have this precision."""
    name = {"float32": "float32", "tf32": "tensorfloat32"}[precision]

    def called(variables: Variables, x: PyTree, key: Key | None, method: str) -> tuple:
        # Gradients inherit the precision that each product was traced with.
        with jax.default_matmul_precision(name):
            return call(variables, x, key, method)

    return called


def _in_bfloat16(call: Call) -> Call:
    """A call on a bfloat16 copy of the parameters; outputs and statistics are as wide as before."""

    def called(variables: Variables, x: PyTree, key: Key | None, method: str) -> tuple:
        short = Variables(_cast(variables.params, jnp.bfloat16), variables.stats)
        # Flax normalises bfloat16 inputs in float32 by implicit promotion.
        with jax.numpy_dtype_promotion("standard"), linen.intercept_methods(_with_short_inputs):
            outputs, stats = call(short, _cast(x, jnp.bfloat16), key, method)
        return _cast(outputs, jnp.float32), _like(stats, variables.stats)

    return called


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The tree with its floating leaves in ``dtype``."""

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(cast, tree)


def _like(tree: PyTree, model: PyTree) -> PyTree:
    """The tree, its leaves in the dtypes of ``model``'s."""
    return jax.tree.map(
        lambda leaf, old: leaf if leaf.dtype == old.dtype else leaf.astype(old.dtype), tree, model
    )


def _in_float32(arrays: Arrays, /, *, dtype: Any = None, inexact: bool = True) -> Arrays:
    """In place of BatchNorm's rule, which would round its running statistics."""
    del dtype, inexact
    return _cast(arrays, jnp.float32)


def _with_short_inputs(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: linen.module.InterceptorContext,
) -> Any:
    """Calls a Linen method; a layer of products reads bfloat16, whatever came before it."""
    module = context.module
    if (
        isinstance(module, _LINEN_PRODUCTS)
        and context.method_name == "__call__"
        and module.dtype is None
    ):
        arguments = _cast(arguments, jnp.bfloat16)
    return call(*arguments, **options)
