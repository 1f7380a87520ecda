"""Options read from signatures: inherited, fixed, explained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import pytest

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Scalar
from fedjax_kd.local import local_training
from fedjax_kd.options import extends, nearest, options, plain_type


def base(task: Any, *, lr: Scalar = 0.1, kind: Literal["a", "b"] = "a", hook: Callable = print):
    """A base.

    Args:
      task: something.
      lr: how far a step
        goes.
      kind: which.
      hook: called.
    """
    return {"task": task, "lr": lr, "kind": kind, "hook": hook}


@extends(base, fixes=["kind"])
def middle(task: Any, *, mu: Scalar | None = None, **rest: Any):
    """A variant.

    Args:
      mu: how much.
    """
    return base(task, kind="b", **rest) | {"mu": mu}


@extends(middle)
def top(task: Any, *, lr: Scalar = 0.5, **rest: Any):
    """Another default for lr.

    Args:
      lr: faster.
    """
    return middle(task, lr=lr, **rest)


def test_options_are_inherited_fixed_and_overridden():
    assert [o.name for o in options(base)] == ["lr", "kind"]
    found = {o.name: o for o in options(top)}
    assert set(found) == {"lr", "mu"}
    assert (found["lr"].default, found["lr"].help) == (0.5, "faster.")
    assert (found["mu"].default, found["mu"].help) == (None, "how much.")
    assert {o.name: o.help for o in options(base)}["lr"] == "how far a step goes."
    assert list(inspect.signature(top).parameters) == ["task", "lr", "mu", "hook"]


def test_calls_pass_through():
    assert top(1, mu=3.0)["lr"] == 0.5
    assert top(1, hook=len)["kind"] == "b"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: top(1, muu=2), "top has no option 'muu'; near it: mu. It has: lr, mu, hook"),
        (lambda: middle(1, kind="a"), "middle has no option 'kind'"),
        (lambda: middle(1, zzz=1), r"no option 'zzz'\. It has"),
    ],
)
def test_unknown_options(call: Callable, match: str):
    with pytest.raises(TypeError, match=match):
        call()


def test_plain_types():
    assert plain_type(Scalar) is float
    assert set(get_args(plain_type(int | None))) == {int, type(None)}
    assert plain_type(Literal["x"]) == Literal["x"]
    assert plain_type(None | Callable) is None


def test_nearest():
    assert "fedavg" in nearest("fedavgg", REGISTRY)
    assert nearest("qqq", REGISTRY) == ""


@pytest.mark.parametrize("factory", [*REGISTRY.values(), local_training])
def test_every_option_of_the_registry_is_explained(factory: Any):
    found = options(factory)
    assert all(o.help for o in found), [o.name for o in found if not o.help]
