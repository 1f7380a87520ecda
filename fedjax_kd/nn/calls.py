"""Calls of a Flax module, NNX or Linen, by the name of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array


def method_of(module: Any, name: str) -> Callable[..., Array]:
    """The method ``name`` of a module, or an error that says how to write it."""
    method = getattr(module, name, None)
    if callable(method):
        return method
    raise TypeError(
        f"{type(module).__name__} has no method {name!r}, but this algorithm needs it: give the "
        "module `features(x)`, the input of its last layer, and write `__call__` as "
        "`head(features(x))`."
    )


def head_of(module: Any, features: Any, **flags: bool) -> Array:
    """What a module returns where its features are these."""
    method_of(module, "features")
    vars(module)["features"] = lambda *args, **options: features  # hides the method
    outputs = module(None, **flags)
    del vars(module)["features"]
    return outputs


def both_of(module: Any, x: Any, **flags: bool) -> tuple[Array, Array]:
    """What a module returns, and the features on the way to it."""
    features, seen = method_of(module, "features"), []

    def recorded(*args: Any, **options: Any) -> Array:
        seen.append(features(*args, **options))
        return seen[-1]

    vars(module)["features"] = recorded  # as an attribute of this object it hides the method
    outputs = module(x, **flags)
    del vars(module)["features"]
    if len(seen) != 1:
        raise TypeError(
            f"{type(module).__name__}.__call__ calls `features` {len(seen)} times, but this "
            "algorithm needs features and outputs of one pass: write it as `head(features(x))`."
        )
    return outputs, seen[0]
