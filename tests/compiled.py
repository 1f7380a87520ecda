"""The losses, each compiled as a whole: their operations one by one would take much longer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax

from fedjax_kd import losses as plain

STATIC = {
    "average",
    "classes",
    "count",
    "decomposition",
    "direction",
    "floor",
    "intensity",
    "measure",
    "power",
    "scaled",
    "steps",
    "variant",
}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    names = STATIC & inspect.signature(function).parameters.keys()
    return jax.jit(function, static_argnames=sorted(names))


losses = SimpleNamespace(
    **{
        name: _compiled(getattr(plain, name))
        for name in plain.__all__
        if inspect.isfunction(getattr(plain, name))
    }
)
