"""Metrics and losses that a run is given by name: those of the library, and a user's own."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.losses import ExampleLoss
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
        if colon:
            found[name] = as_metric(name, _imported("metric", module, name))
        else:
            found[name] = named("metric", text, METRICS)
    return found


def named_loss(text: str) -> ExampleLoss:
    """A loss of one example, ``(outputs, targets) -> [B]`` or ``[B, ...]``, by ``module:name``.

    Raises:
      ValueError: if there is none.
      TypeError: if it is no function.

    Example:
      >>> named_loss("fedjax_kd.losses:cross_entropy").__name__
      'cross_entropy'
    """
    module, _, name = text.rpartition(":")
    found = _imported("loss", module, name)
    if not callable(found):
        raise InputTypeError(
            f"The loss {text} is a {type(found).__name__}, but must be a function (outputs, "
            "targets) -> the loss of each example."
        )
    return found


def located(text: str) -> str:
    """The same function, by the whole path of its file where its module lies in this folder.

    So a run that is resumed in another folder finds it again.

    Example:
      >>> located("fedjax_kd.losses:cross_entropy"), located("macro_f1")
      ('fedjax_kd.losses:cross_entropy', 'macro_f1')
    """
    module, colon, name = text.rpartition(":")
    file = Path(module if module.endswith(".py") else module.replace(".", "/") + ".py")
    return f"{file.resolve()}:{name}" if colon and module and file.is_file() else text


def _imported(kind: str, module: str, name: str) -> Any:
    """What a module calls so: one that is installed, or a Python file."""
    file = Path(module)
    try:
        if file.suffix == ".py":
            with _first_on_path(file.parent):
                holder: Any = SimpleNamespace(**runpy.run_path(module, run_name=file.stem))
        else:
            with _first_on_path(Path.cwd()):
                holder = importlib.import_module(module)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(
            f"The {kind} {module}:{name} cannot be imported ({error}): give MODULE:NAME, of a "
            "module that is installed or lies in the current folder, or FILE.py:NAME."
        ) from error
    if not hasattr(holder, name):
        raise InputError(f"{module} has no {name!r}: give MODULE:NAME of a function.")
    return getattr(holder, name)


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
