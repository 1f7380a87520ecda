"""What of an option's annotation can be typed on a command line."""

from __future__ import annotations

import types
from functools import reduce
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin

_PLAIN = (int, float, str, bool, type(None))


def plain_type(annotation: Any) -> Any:
    """What of an annotation can be typed on a command line; None if nothing.

    Example:
      >>> from collections.abc import Callable
      >>> plain_type(float | Callable), plain_type(Callable)
      (<class 'float'>, None)
    """
    union = get_origin(annotation) in (Union, types.UnionType)
    members = get_args(annotation) if union else (annotation,)
    kept = [m for m in members if m in _PLAIN or get_origin(m) is Literal or _is_several(m)]
    if all(m is type(None) for m in kept):
        return None
    return reduce(or_, kept)


def _is_several(annotation: Any) -> bool:
    """Whether an annotation is a tuple of any number of ints, floats or words."""
    return annotation in (tuple[int, ...], tuple[float, ...], tuple[str, ...])
