"""The arithmetic that one training step needs, counted from the model and not from its program.

The loss is traced once, with ``lax`` convolutions, and its matrix products and convolutions are
read off. A product of m multiplications costs 2m operations forward, and 2m more for each operand
whose gradient is needed: the weights', and the input's unless it is the data itself. Products with
the zeros of a padding are not counted, neither is anything done element by element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

from fedjax_kd import Batch, Task, tree


class Product(NamedTuple):
    """One matrix product or convolution of the forward pass."""

    shape: tuple[int, int, int]  # rows, contracted, columns; of a convolution: of its patches
    multiplications: int  # forward, all groups and all iterations of a loop
    passes: int  # 1 + operands whose gradient is needed
    repeats: int  # groups x iterations
    saved: int  # bytes of operands that the forward pass must leave to the backward pass

    @property
    def operations(self) -> int:
        """Of the forward and the backward pass."""
        return 2 * self.multiplications * self.passes


class Axis(NamedTuple):
    """One spatial axis of a convolution."""

    size: int
    window: int
    places: int
    stride: int
    padding: tuple[int, int]
    lhs_dilation: int
    rhs_dilation: int


class Work(NamedTuple):
    """The least that one local step of one client costs."""

    products: tuple[Product, ...]
    operations: int
    bytes: int
    """Each parameter read and written, the batch as stored read, and every input of a product that
    is not the data itself written by the forward pass and read by the backward pass."""


class Origin(NamedTuple):
    """What a value is computed from."""

    params: bool = False
    data: bool = False


def count(task: Task, batch: Batch) -> Work:
    """The work of one SGD step on ``batch`` (arrays, or their shapes).

    Args:
      task: made from a module whose convolutions are ``lax``'s; others count as the products that
        they are made of.
      batch: inputs as stored, labels and mask.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = jax.eval_shape(task.init, key)
    traced = jax.make_jaxpr(task.loss)(model, batch, key)
    sizes = [len(jax.tree.leaves(part)) for part in (model.params, model.stats, batch)]
    origins = [Origin(params=True)] * sizes[0] + [Origin()] * sizes[1]
    origins += [Origin(data=True)] * sizes[2]
    origins += [Origin()] * (len(traced.jaxpr.invars) - len(origins))
    found, _ = _walk(traced.jaxpr, origins)
    products = tuple(found)
    moved = 2 * tree.num_bytes(model.params) + tree.num_bytes((batch.x, batch.y))
    moved += 2 * sum(product.saved for product in products)
    return Work(products, sum(product.operations for product in products), moved)


def _walk(jaxpr: Any, origins: Sequence[Origin]) -> tuple[list[Product], list[Origin]]:
    """The products of a traced function, and where its results come from."""
    known = dict(zip(jaxpr.invars, origins, strict=True))

    def origin(atom: Any) -> Origin:
        return Origin() if isinstance(atom, Literal) else known.get(atom, Origin())

    products = []
    for equation in jaxpr.eqns:
        found, out = _equation(equation, [origin(atom) for atom in equation.invars])
        products += found
        known |= dict(zip(equation.outvars, out, strict=True))
    return products, [origin(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, origins: list[Origin]) -> tuple[list[Product], list[Origin]]:
    """The same of one equation."""
    name, inner = equation.primitive.name, list(jaxprs_in_params(equation.params))
    if name in ("dot_general", "conv_general_dilated"):
        of = _dot if name == "dot_general" else _convolution
        return [of(equation, origins)], [_union(origins)]
    if name == "scan":
        return _scan(equation, inner[0], origins)
    if len(inner) == 1 and len(inner[0].invars) == len(origins):
        return _walk(inner[0], origins)
    if any(_walk(jaxpr, [Origin()] * len(jaxpr.invars))[0] for jaxpr in inner):
        raise ValueError(
            f"the model has matrix products inside {name!r}, but how often they run is not known "
            "beforehand: count a model without such a branch or loop."
        )
    # A gradient never passes through whole numbers.
    every = _union(origins)
    smooth = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in equation.outvars]
    return [], [Origin(every.params and s, every.data) for s in smooth]


def _scan(equation: Any, body: Any, origins: list[Origin]) -> tuple[list[Product], list[Origin]]:
    """A loop: its products times its length; what it carries may come from an earlier turn."""
    carried = _same_shapes(equation.outvars, body.outvars)
    consts = _same_shapes(equation.invars, body.invars) - carried
    while True:
        products, out = _walk(body, origins)
        state = origins[consts : consts + carried]
        grown = [_union(pair) for pair in zip(state, out[:carried], strict=True)]
        if grown == state:
            break
        origins = [*origins[:consts], *grown, *origins[consts + carried :]]
    length = equation.params["length"]
    return [
        p._replace(
            multiplications=length * p.multiplications,
            repeats=length * p.repeats,
            saved=length * p.saved,
        )
        for p in products
    ], out


def _same_shapes(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many values a loop takes or returns as a whole; the others are one slice a turn."""
    # Counted, since the names of scan's own parameters differ between versions of JAX.
    pairs = zip(outside, inside, strict=True)
    return sum(a.aval.shape == b.aval.shape for a, b in pairs)


def _dot(equation: Any, origins: list[Origin]) -> Product:
    """A matrix product; batch axes are repeats."""
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left, right = (v.aval.shape for v in equation.invars)
    k = math.prod(left[axis] for axis in contracted)
    repeats = math.prod(left[axis] for axis in batched)
    m, n = (math.prod(shape) // (k * repeats) for shape in (left, right))
    return _product(equation, origins, (m, k, n), repeats * m * k * n, repeats)


def _convolution(equation: Any, origins: list[Origin]) -> Product:
    """A convolution; taps that meet only zeros of a padding or dilation are left out."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    left, right = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    axes = zip(
        (left[axis] for axis in numbers.lhs_spec[2:]),
        (right[axis] for axis in numbers.rhs_spec[2:]),
        (out[axis] for axis in numbers.out_spec[2:]),
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    groups = params["feature_group_count"] * params["batch_group_count"]
    images, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    inputs = right[numbers.rhs_spec[1]]
    places = math.prod(out[axis] for axis in numbers.out_spec[2:])
    taps = math.prod(right[axis] for axis in numbers.rhs_spec[2:])
    real = math.prod(_real_taps(Axis(*axis)) for axis in axes)
    shape = (images * places, taps * inputs, features // groups)
    return _product(equation, origins, shape, images * real * inputs * features, groups)


def _real_taps(axis: Axis) -> int:
    """Pairs of a place and a tap that meet an input, along one axis."""
    starts = np.arange(axis.places)[:, None] * axis.stride - axis.padding[0]
    at = starts + np.arange(axis.window)[None] * axis.rhs_dilation
    within = (at >= 0) & (at <= (axis.size - 1) * axis.lhs_dilation)
    return int((within & (at % axis.lhs_dilation == 0)).sum())


def _product(
    equation: Any,
    origins: list[Origin],
    shape: tuple[int, int, int],
    multiplications: int,
    repeats: int,
) -> Product:
    """The product with its gradients: an operand needs one if it comes from parameters."""
    pairs = [(v.aval, o) for v, o in zip(equation.invars, origins, strict=True)]
    saved = [aval.size * aval.dtype.itemsize for aval, o in pairs if o.params and o.data]
    passes = 1 + sum(o.params for o in origins)
    return Product(shape, multiplications, passes, repeats, sum(saved))


def _union(origins: Iterable[Origin]) -> Origin:
    known = list(origins)
    return Origin(any(o.params for o in known), any(o.data for o in known))
