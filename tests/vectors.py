"""Golden vectors: arrays of ``tests/golden/NAME.npz``, and what the names of their keys say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return dict(file)


def number(encoded: str) -> float:
    """``0p001`` is 0.001 and ``1em08`` is 1e-08."""
    return float(encoded.replace("em", "e-").replace("p", "."))


def keys_of(name: str, pattern: str) -> list[Any]:
    """The keys of a file that match, each with its groups."""
    found = [(key, re.fullmatch(pattern, key)) for key in golden(name)]
    return [pytest.param(key, match.groups(), id=key) for key, match in found if match]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
