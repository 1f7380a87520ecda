"""What the tests that run over all methods must know about each: one record a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin

import jax
import pytest
from federations import COHORTS

from fedjax_kd.algorithms import REGISTRY, fedavg
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Variables
from fedjax_kd.data.federation import Federation
from fedjax_kd.local import Fit, local_training
from fedjax_kd.options import options
from fedjax_kd.task import Task

Numbers = Mapping[str, float]
FIT = {"client_lr": 0.1, "batch_size": 4}  # of the contract
WHOLE = local_training(client_lr=0.1, batch_size=0, epochs=3)  # of the limits

# One of each kind. What compiles long runs with these by default and with the others in `thorough`.
OF_EACH_KIND = frozenset(
    (
        *("fedavg", "fedadam", "scaffold", "mime", "moon", "perfedavg", "fedsam", "fedswa"),
        *("fednova", "qfedavg", "fedgkd", "fedrep", "fedbn", "ditto", "knnper", "ifca", "fedproto"),
        *("heterofl", "pfedhn", "feddf", "fedmd", "fedgkt", "fedgen", "ccvr"),
    )
)
OF_A_KIND = frozenset(REGISTRY) - OF_EACH_KIND


def averaged(task: Task, fit: Fit) -> Algorithm:
    """FedAvg, where clients vote by their examples."""
    return fedavg(task, fit)


def uniformly(task: Task, fit: Fit) -> Algorithm:
    """FedAvg, where clients vote alike."""
    return fedavg(task, fit, weighting="uniform")


@dataclass(frozen=True)
class Limit:
    """Where a method is FedAvg: options that make it so, for these cohorts, up to ``gap``.

    ``prepare`` changes the method's task and not FedAvg's.
    """

    options: Mapping[str, Any]
    gap: float = 0.0
    equals: Callable[[Task, Fit], Algorithm] = averaged
    cohorts: Sequence[Sequence[int]] = COHORTS
    prepare: Callable[[Task], Task] | None = None


@dataclass(frozen=True)
class Digits:
    """How a method learns scikit-learn's digits; ``fit`` beside the usual local training."""

    task: Callable[[Federation], Task]
    fit: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """All of a method that the common tests cannot find out by themselves.

    A record is complete when none of the fields with a description is None.
    """

    task: Callable[[], Task] | None = field(
        default=None, metadata={"needed": "the smallest task on which it makes sense"}
    )
    bytes: tuple[int, int, int] | None = field(
        default=None, metadata={"needed": "bytes of one client: down, up, kept"}
    )
    limit: Limit | str | None = field(
        default=None, metadata={"needed": "a Limit where it equals FedAvg, or why there is none"}
    )
    digits: Digits | None = field(
        default=None, metadata={"needed": "a task and options with which it learns the digits"}
    )
    # What it cannot do without, or what makes it faster.
    options: Mapping[str, Any] = field(default_factory=dict)
    # Numeric options without a default number: the value that changes nothing.
    neutral: Numbers = field(default_factory=dict)
    # Numeric options whose effect needs another value than one somewhat below the default.
    vary: Numbers = field(default_factory=dict)
    # After which each of them has had its effect.
    rounds: int = 3
    # Numeric options that change predictions and nothing of the training.
    evaluated: Collection[str] = ()


def missing(names: Collection[str], records: Mapping[str, Record]) -> list[str]:
    """What is still to be written in the records of these methods, a line a field."""
    lines = []
    for name in names:
        record = records.get(name, Record())
        for part in fields(Record):
            what = part.metadata.get("needed")
            if what and getattr(record, part.name) is None:
                lines.append(f"tests/method_records.py: RECORDS[{name!r}].{part.name}: {what}")
    return lines


def numeric(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a factory that may be any one number, with their defaults."""
    single = [o for o in options(factory) if get_origin(o.type) is not tuple]
    found = [o for o in single if float in (o.type, *get_args(o.type))]
    return {o.name: o.default for o in found}


def takes_fit(name: str) -> bool:
    """Whether a method is told how clients train."""
    return "fit" in inspect.signature(REGISTRY[name]).parameters


def make(name: str, task: Task, fit: Fit, **given: Any) -> Algorithm:
    """A method; ``fit`` goes to those that take one."""
    return REGISTRY[name](*((task, fit) if takes_fit(name) else (task,)), **given)


def each_method(names: Sequence[str], thorough: Collection[str] = ()) -> pytest.MarkDecorator:
    """Parametrises by ``name``, by which `conftest` also brings a method's tests to one worker."""
    slow = pytest.mark.thorough
    cases = [pytest.param(name, marks=[slow] * (name in thorough)) for name in names]
    return pytest.mark.parametrize("name", cases)


def model(state: Any) -> Variables:
    """The global model, wherever the method keeps it."""
    server = state.server
    if hasattr(server, "learning"):  # it makes the models, of which clients may keep a part
        shared = Variables(server.learning.net.heads.bias, server.stats)
        return combine(shared, jax.tree.map(lambda a: a[4], state.clients[0].model))
    if type(server) is tuple:  # of several architectures
        server = server[0]
    if hasattr(server, "initial"):  # the rest is at home; clients who share all keep nothing
        return combine(server.base.model, jax.tree.map(lambda a: a[4], state.clients[0]))
    while hasattr(server, "base"):
        server = server.base
    if hasattr(server, "common"):  # of several models the first
        return combine(server.common.model, jax.tree.map(lambda a: a[0], server.own.model))
    if hasattr(server, "base"):
        return server.base.model
    if hasattr(server, "model"):
        return server.model
    own = jax.tree.map(lambda a: a[4], state.clients[0])  # there is no global one
    return getattr(own, "model", own)
