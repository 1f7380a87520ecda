"""Linen modules as a task calls them: with layers that are faster in a simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen

from fedjax_kd.nn.conv import conv_general_dilated
from fedjax_kd.nn.dense import dot_general


def with_faster_layers(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: linen.module.InterceptorContext,
) -> Any:
    """Calls a Linen method, for ``linen.intercept_methods``: ordinary layers get our functions."""
    module = context.module
    if context.method_name != "__call__":
        return call(*arguments, **options)
    if isinstance(module, linen.Conv) and (
        module.conv_general_dilated is None and module.conv_general_dilated_cls is None
    ):
        return changed(module, conv_general_dilated=conv_general_dilated)(*arguments, **options)
    if isinstance(module, linen.Dense) and (
        module.dot_general is None and module.dot_general_cls is None
    ):
        return changed(module, dot_general=dot_general)(*arguments, **options)
    return call(*arguments, **options)


def changed(module: linen.Module, **fields: Any) -> Callable[..., Any]:
    """A bound Linen layer with other values of some fields, and the variables that it has."""
    return module.clone(parent=module.scope, name=None, **fields)
