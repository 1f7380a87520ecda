"""The table of all methods against FedAvg, made from their code: docs/algorithms.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import Types, check_algorithm
from fedjax_kd.runs.config import Config, algorithm_of, task_of
from fedjax_kd.runs.data_config import DataConfig, federation_of

BASE = "fedavg"

# Networks for methods that need more than fully connected layers.
_NETWORKS: Mapping[str, dict[str, Any]] = {
    "fedbn": {"model": "resnet8", "model_options": {"norm": "batch"}},
}
_PLAIN: dict[str, Any] = {"model": "mlp", "model_options": {"hidden": (64,)}}

_HEAD = """# Methods

Made from the code by `fedjax-kd list methods --markdown`; a test keeps it current.

*Replaces* names the functions of the contract (`fedjax_kd/core.py`) that a method has in place of
FedAvg's, and where FedAvg's own ones are given something else: *objective*, another local loss;
*fit*, another local training; *server_opt*, another optimiser of the server. *Bytes* are those of
one client in a round, down and up, over FedAvg's with the same network: on the digits, a fully
connected network with 64 hidden units ({others}). Methods marked * may have another architecture in
each group of clients (`--models`).

| method | against FedAvg | replaces | down | up | keeps | bytes down | bytes up |
|---|---|---|---|---|---|---|---|
"""


def methods_page() -> str:
    """The page as Markdown, a line a method."""
    _, federation = federation_of(DataConfig(public="holdout", validation_fraction=0.1))
    base = {
        str(network): _made(replace(Config(BASE), **network), federation)
        for network in (_PLAIN, *_NETWORKS.values())
    }
    rows = []
    for name, factory in REGISTRY.items():
        network = _NETWORKS.get(name, _PLAIN)
        made = _made(replace(Config(name), **network), federation)
        rows.append(_row(name, factory, made, base[str(network)]))
    others = [f"{name}: {network['model']}" for name, network in _NETWORKS.items()]
    return _HEAD.format(others=", ".join(others)) + "".join(rows)


def against_fedavg(factory: Callable[..., Any]) -> str:
    """What a method changes, from its docstring.

    Example:
      >>> against_fedavg(REGISTRY["fedadam"])
      'the server optimiser'
    """
    found = re.search(r"Against \w+: (.*?)\.? Down: ", _text(factory))
    return found[1] if found else ""


def travels(factory: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a method says of ``down``, ``up`` and ``keeps``.

    Example:
      >>> travels(REGISTRY["fedavg"])["up"]
      'its change, of the same shapes'
    """
    found = re.search(r"Down: (.*?)\.? Up: (.*?)\.? Keeps: (.*?)\.(?= |$)", _text(factory))
    if found is None:
        raise ValueError(
            f"The docstring of {factory.__name__} does not say what travels: write one line "
            "'Down: ... Up: ... Keeps: ...'."
        )
    return dict(zip(("down", "up", "keeps"), found.groups(), strict=True))


def _text(factory: Callable[..., Any]) -> str:
    """A docstring on one line."""
    return " ".join((inspect.getdoc(factory) or "").split())


def replaced(algorithm: Algorithm, base: Algorithm) -> list[str]:
    """The functions that differ from those of ``base``, and what its own ones were given.

    Example:
      >>> import optax
      >>> from fedjax_kd.algorithms import fedavg
      >>> from fedjax_kd.local import local_training
      >>> plain, fast = (
      ...     fedavg(None, local_training(), server_opt=opt) for opt in (optax.sgd, optax.adam)
      ... )
      >>> replaced(fast._replace(predict=len), plain)
      ['predict', 'server_opt']
    """
    found = []
    for name, function in algorithm._asdict().items():
        own, other = _code(function), _code(getattr(base, name))
        if own != other:
            found.append(name)
    if "client_update" not in found:
        given, usual = _closure(algorithm.client_update), _closure(base.client_update)
        found += ["objective"] * (given["objective"] is not None)
        found += ["fit"] * (_code(given["fit"].run) != _code(usual["fit"].run))
    if "server_update" not in found:
        own, other = (
            str(jax.tree.structure(_closure(a.server_update)["opt"].init(jnp.zeros(()))))
            for a in (algorithm, base)
        )
        found += ["server_opt"] * (own != other)
    return found


def _made(config: Config, federation: Federation) -> tuple[Algorithm, Types]:
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


def _code(function: Any) -> Any:
    """What tells functions apart that were made by one factory in several calls."""
    if not callable(function):
        return jax.tree.structure(function), [r.name for r in jax.tree.leaves(function)]
    return getattr(inspect.unwrap(function), "__code__", function)


def _closure(function: Any) -> Mapping[str, Any]:
    """What a function of FedAvg was made with."""
    return inspect.getclosurevars(function).nonlocals
