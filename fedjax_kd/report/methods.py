"""The table of all methods against FedAvg, made from their code: docs/algorithms.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import Types, check_algorithm
from fedjax_kd.errors import InputError, collected_warnings
from fedjax_kd.options import network_of
from fedjax_kd.runs.build import algorithm_of, task_of
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.data_config import DataConfig, federation_of

BASE = "fedavg"

_PLAIN: dict[str, Any] = {"model": "mlp", "model_options": {"hidden": (64,)}}

_HEAD = """# Methods

Made from the code by `fedjax-kd list methods --markdown`; a test keeps it current.

*Replaces* names the fields of the contract (`fedjax_kd/core.py`) that a method has in place of
FedAvg's; a method with none of its own gives FedAvg another local loss, local training or server
optimiser. *Bytes* are those of one client in a round, down and up, over FedAvg's with the same
network: on the digits, a fully connected network with 64 hidden units ({others}). Methods marked *
may have another architecture in each group of clients (`--models`).

| method | against FedAvg | replaces | down | up | keeps | bytes down | bytes up |
|---|---|---|---|---|---|---|---|
"""


def methods_page() -> str:
    """The page as Markdown, a line a method."""
    _, federation = federation_of(DataConfig(public="holdout", validation_fraction=0.1))
    rows, others, bases = [], [], {}
    for name, factory in REGISTRY.items():
        network = dict(network_of(factory)) or _PLAIN
        if str(network) not in bases:
            bases[str(network)] = _made(replace(Config(BASE), **network), federation)
        if network != _PLAIN:
            others.append(f"{name}: {network['model']}")
        made = _made(replace(Config(name), **network), federation)
        rows.append(_row(name, factory, made, bases[str(network)]))
    return _HEAD.format(others=", ".join(others)) + "".join(rows)


def against_fedavg(factory: Callable[..., Any]) -> str:
    """The difference of a method from FedAvg, from its docstring.

    Example:
      >>> against_fedavg(REGISTRY["fedadam"])
      'the server optimiser'
    """
    found = re.search(r"Against \w+: (.*?)\.? Down: ", _text(factory))
    return found[1] if found else ""


def travels(factory: Callable[..., Any]) -> dict[str, str]:
    """A method's ``down``, ``up`` and ``keeps`` (what travels and stays), from its docstring.

    Example:
      >>> travels(REGISTRY["fedavg"])["up"]
      'its change, of the same shapes'
    """
    found = re.search(r"Down: (.*?)\.? Up: (.*?)\.? Keeps: (.*?)\.(?= |$)", _text(factory))
    if found is None:
        raise InputError(
            f"The docstring of {factory.__name__} does not say what travels: write one line "
            "'Down: ... Up: ... Keeps: ...'."
        )
    return dict(zip(("down", "up", "keeps"), found.groups(), strict=True))


def _text(factory: Callable[..., Any]) -> str:
    """A docstring on one line."""
    return " ".join((inspect.getdoc(factory) or "").split())


def replaced(algorithm: Algorithm, base: Algorithm) -> list[str]:
    """The fields of the contract in which an algorithm differs from another one, but for checks.

    Functions are the same if the same lines made them, whatever they were made with.

    Example:
      >>> from fedjax_kd.algorithms import fedavg
      >>> from fedjax_kd.local import local_training
      >>> from fedjax_kd.task import from_nnx
      >>> from flax import nnx
      >>> task = from_nnx(lambda rngs: nnx.Linear(2, 2, rngs=rngs))
      >>> plain = fedavg(task, local_training())
      >>> replaced(plain._replace(predict=len, judged_by="clients"), plain)
      ['predict', 'judged_by']
    """
    fields = algorithm._asdict()
    return [
        name
        for name, own in fields.items()
        if name != "check" and _known_by(own) != _known_by(getattr(base, name))
    ]


def _made(config: Config, federation: Federation) -> tuple[Algorithm, Types]:
    with collected_warnings():  # nothing is trained
        algorithm = algorithm_of(config, task_of(config, federation), federation)
    return algorithm, check_algorithm(algorithm, federation.train, federation.public)


def _row(
    name: str,
    factory: Callable[..., Any],
    made: tuple[Algorithm, Types],
    base: tuple[Algorithm, Types],
) -> str:
    (algorithm, types), (plain, plain_types) = made, base
    words = travels(factory)
    cells = [
        f"`{name}`{'*' if name in GROUPS else ''}",
        against_fedavg(factory),
        ", ".join(replaced(algorithm, plain)) or "-",
        *words.values(),
        f"{types.bytes_down / plain_types.bytes_down:.3g}",
        f"{types.bytes_up / plain_types.bytes_up:.3g}",
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _known_by(field: Any) -> Any:
    """What identifies a field of the contract, so that it can be compared between methods."""
    if callable(field):
        return field.__module__, field.__qualname__
    return jax.tree.map(lambda leaf: getattr(leaf, "name", leaf), field)
