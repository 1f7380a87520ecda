"""Metrics that a run tells beside those of its problem: by their name, or a user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fedjax_kd.errors import InputError
from fedjax_kd.metrics import METRICS, Metric, as_metric
from fedjax_kd.options import named


def named_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name.

    Args:
      names: of `fedjax_kd.metrics.METRICS`, or ``module:name`` of a function ``(outputs, targets)
        -> a number an example`` or a `fedjax_kd.metrics.Metric`; modules are also looked for in the
        current folder.

    Raises:
      ValueError: if there is no such metric or module, or two have the same name.
      TypeError: if it is neither function nor metric.

    Example:
      >>> list(named_metrics(["macro_f1", "fedjax_kd.metrics.of_values:mae"]))
      ['macro_f1', 'mae']
    """
    found: dict[str, Metric] = {}
    for text in names:
        module, colon, name = text.rpartition(":")
        if name in found:
            raise InputError(
                f"The metric {name} is named twice in {' '.join(names)}: name it once."
            )
        found[name] = _imported(module, name) if colon else named("metric", text, METRICS)
    return found


def _imported(module: str, name: str) -> Metric:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        holder = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"The metric {module}:{name} cannot be imported ({error}): give MODULE:NAME, of a "
            "module that is installed or lies in the current folder."
        ) from error
    finally:
        sys.path.remove(here)
    if not hasattr(holder, name):
        raise InputError(f"The module {module} has no {name!r}: give MODULE:NAME of a function.")
    return as_metric(name, getattr(holder, name))
