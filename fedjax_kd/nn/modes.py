"""Layers that do something else in training than in evaluation, as a call of a model meets them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
from flax import linen, nnx

from fedjax_kd.core import PyTree
from fedjax_kd.nn.calls import set_mode

Kind = Literal["batch normalisation", "dropout"]

_KINDS: dict[Kind, tuple[type, type]] = {
    "batch normalisation": (nnx.BatchNorm, linen.BatchNorm),
    "dropout": (nnx.Dropout, linen.Dropout),
}
_FLAGS: dict[Kind, str] = {
    "batch normalisation": "use_running_average",
    "dropout": "deterministic",
}


class LayerCall(NamedTuple):
    """A layer of one kind in one call."""

    kind: Kind
    place: str  # in the model
    acts: bool  # whether it normalises by its batch, or drops
    positions: int  # numbers of each channel that one example brings


_SEEN: ContextVar[list[LayerCall]] = ContextVar("layers that were called")


def nnx_layers(
    model: nnx.Module, call: Callable[[nnx.Module], Any], *, train: bool
) -> list[LayerCall]:
    """The layers that a call of an NNX module meets in a mode.

    Args:
      model: may be abstract, and stays as it is.
      call: with a batch of one example.
      train: whether it is in training mode.

    Example:
      >>> layer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
      >>> nnx_layers(layer, lambda module: module(jax.numpy.ones((1, 5, 5, 3))), train=True)
      [LayerCall(kind='batch normalisation', place='the model', acts=True, positions=25)]
    """
    graph, state = nnx.split(model)

    def watched(state: PyTree) -> Any:
        module = nnx.merge(graph, state)
        set_mode(module, train=train)
        for path, inner in nnx.iter_modules(module):
            if _kind(inner) is not None:
                vars(inner)["place_in_model"] = ".".join(map(str, path)) or "the model"
                inner.__class__ = _recording(type(inner))
        return call(module)

    if not any(_kind(inner) for _, inner in nnx.iter_modules(model)):
        return []
    return _seen_by(watched, state)


def linen_layers(call: Callable[[PyTree], Any], model: PyTree) -> list[LayerCall]:
    """The layers that ``call(model)`` of a Linen module meets, on a batch of one example."""

    def note(
        method: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        context: linen.module.InterceptorContext,
    ) -> Any:
        if context.method_name == "__call__":
            _note(context.module, "/".join(context.module.path), arguments, options)
        return method(*arguments, **options)

    with linen.intercept_methods(note):
        return _seen_by(call, model)


def _seen_by(call: Callable[..., Any], *arguments: PyTree) -> list[LayerCall]:
    token = _SEEN.set([])
    try:
        with jax.numpy_dtype_promotion("standard"):  # models may compute in bfloat16
            jax.eval_shape(lambda *a: (call(*a), None)[1], *arguments)
        return _SEEN.get()
    finally:
        _SEEN.reset(token)


@cache
def _recording(layer: type) -> type:
    """The type of layer that also notes its calls."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        _note(self, self.place_in_model, arguments, options)
        return layer.__call__(self, *arguments, **options)

    return type(layer.__name__, (layer,), {"__call__": call})


def _note(layer: Any, place: str, arguments: Sequence[Any], options: dict[str, Any]) -> None:
    kind = _kind(layer)
    if kind is None:
        return
    given = options.get(_FLAGS[kind], arguments[1] if len(arguments) > 1 else None)
    still = getattr(layer, _FLAGS[kind]) if given is None else given
    x, positions = arguments[0], 1
    if kind == "batch normalisation":
        axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
        positions = x.size // max(math.prod(x.shape[a] for a in axes), 1)
    _SEEN.get().append(LayerCall(kind, place or "the model", not still, positions))


def _kind(module: Any) -> Kind | None:
    """The kind of a layer; None if it is none of these, or drops nothing."""
    found = next((kind for kind, types in _KINDS.items() if isinstance(module, types)), None)
    return None if found == "dropout" and not module.rate else found


def one_example(batch: PyTree) -> PyTree:
    """The types of a batch of one, of what stands for a batch."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), batch)
