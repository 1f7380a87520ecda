"""The wrappers of a run, by name, and what they are given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_options, named, options
from fedjax_kd.runs.data_config import Options
from fedjax_kd.runs.option_values import parse_named
from fedjax_kd.task import Task
from fedjax_kd.wrappers import WRAPPERS


def parse_wrappers(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by wrapper from words like ``top_k:keep=0.05``, the innermost first.

    Raises:
      ValueError: if there is no such wrapper or option, or a wrapper is named twice.

    Example:
      >>> parse_wrappers(["top_k:keep=0.05", "median"])
      {'top_k': {'keep': 0.05}, 'median': {}}
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, given = parse_named("wrapper", text, WRAPPERS)
        if name in found:
            raise InputError(f"The wrapper {name} is named twice: name each once.")
        found[name] = given
    return found


def wrapped(
    algorithm: Algorithm, wrappers: Mapping[str, Options], task: Task, federation: Federation
) -> Algorithm:
    """The algorithm with wrappers around it, the first one innermost.

    Raises:
      ValueError: if there is no such wrapper or option, or a value is out of its range.
    """
    around = {"task": task, "federation": federation}
    for name, given in wrappers.items():
        factory = named("wrapper", name, WRAPPERS)
        check_options(f"wrapper {name}", given, options(factory))
        asked = inspect.signature(factory).parameters
        facts = {fact: value for fact, value in around.items() if fact in asked}
        algorithm = factory(algorithm, **facts, **given)
    return algorithm
