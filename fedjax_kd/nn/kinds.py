"""Which values of a model belong to a normalisation layer, told by the type of its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen, nnx

from fedjax_kd.core import Key, PyTree, Variables

NORMS: Mapping[str, tuple[type, type]] = {
    "batch": (nnx.BatchNorm, linen.BatchNorm),
    "layer": (nnx.LayerNorm, linen.LayerNorm),
    "group": (nnx.GroupNorm, linen.GroupNorm),
    "instance": (nnx.InstanceNorm, linen.InstanceNorm),
    "rms": (nnx.RMSNorm, linen.RMSNorm),
}
"""Kinds of normalisation, and Flax's modules of that kind."""


def nnx_norms(model: nnx.Module, variables: Variables) -> Variables:
    """The kind of normalisation that each value belongs to; ``""`` if it belongs to none.

    Args:
      model: whose modules are looked at.
      variables: of the model, as nested dicts.

    Example:
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), nnx.LayerNorm(3, rngs=rngs))
      >>> nnx_norms(model, Variables(nnx.to_pure_dict(nnx.state(model, nnx.Param)))).params
      {'layers': {0: {'bias': '', 'kernel': ''}, 1: {'bias': 'layer', 'scale': 'layer'}}}
    """
    places = {tuple(path): _kind(module) for path, module in nnx.iter_modules(model)}
    return Variables(_marked(variables.params, places), _marked(variables.stats, places))


def linen_norms(init: Callable[[Key], Variables]) -> Variables:
    """Like `nnx_norms`, of the Linen module that ``init`` initialises."""
    places: dict[tuple, str] = {}

    def note(
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        context: linen.module.InterceptorContext,
    ) -> Any:
        if context.method_name == "__call__":
            places[tuple(context.module.path)] = _kind(context.module)
        return call(*arguments, **options)

    with linen.intercept_methods(note):
        # A new function each time: JAX would not trace a known one again, and nothing be noted.
        variables = jax.eval_shape(lambda: init(jax.random.key(0)))
    stats = {name: _marked(values, places) for name, values in variables.stats.items()}
    return Variables(_marked(variables.params, places), stats)


def _kind(module: object) -> str:
    """The kind of normalisation of a module; subclasses are what they derive from."""
    return next((kind for kind, types in NORMS.items() if isinstance(module, types)), "")


def _marked(values: PyTree, places: Mapping[tuple, str]) -> PyTree:
    """Each value's kind: that of the first module on the way to it that has one."""

    def mark(path: tuple, value: object) -> str:
        del value
        keys = tuple(entry.key for entry in path)
        above = (places.get(keys[:n], "") for n in range(len(keys)))
        return next(filter(None, above), "")

    return jax.tree_util.tree_map_with_path(mark, values)
