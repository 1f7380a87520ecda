"""Golden vectors in double precision, and how close values and gradients come to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from vectors import golden

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32


EXACT = {"rtol": 1e-12, "atol": 1e-12}


def arrays(name: str) -> dict[str, np.ndarray]:
    """A file's arrays, floats in float64 and labels in int32."""

    def wide(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64 if a.dtype.kind == "f" else np.int32)

    return {key: wide(a) for key, a in golden(name).items()}


def value_and_grad(fun: Callable[..., Any], *at: Any, **options: Any) -> Any:
    """Value and gradient at a point, compiled."""
    return jax.jit(jax.value_and_grad(fun, **options))(*at)


def close(seen: Any, expected: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(seen, expected, **(tolerance or TORCH))
