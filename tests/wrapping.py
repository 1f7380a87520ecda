"""What tests of wrappers share: clients, options, and how a wrapper goes around a method."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from federations import federation, public

from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.runs.wrapper_config import wrapped

OPTIONS: dict[str, dict[str, Any]] = {
    "top_k": {"keep": 0.3},
    "privacy": {"clip": 0.5, "noise": 0.1},
    "krum": {"select": 2},
    "trimmed_mean": {"share": 0.34},
    "power_of_choice": {"clients": 2},
    "loss_sampling": {"clients": 2, "losses": "model"},  # with the last ones, they travel too
    "ccvr": {"after": 1, "virtual": 4, "head_epochs": 1, "head_batch": 6},
    "sketch": {"shrink": 3},
}


@cache
def clients() -> Federation:
    """The ragged federation, with public inputs."""
    return replace(federation(), public=public())


def around(name: str, algorithm: Algorithm, task: Any, **options: Any) -> Algorithm:
    """A wrapper around an algorithm."""
    return wrapped(algorithm, {name: OPTIONS.get(name, {}) | options}, task, clients())
