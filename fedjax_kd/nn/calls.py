"""Calls of a Flax module, NNX or Linen, by the name of a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen, nnx
from jaxtyping import Array

from fedjax_kd.errors import InputError, InputTypeError

_TRAINING = (
    *("train", "training", "is_training", "is_train", "train_mode", "training_mode"),
    *("in_training", "enable_dropout"),
)
_EVALUATING = (
    *("deterministic", "is_deterministic", "use_running_average", "eval", "eval_mode", "is_eval"),
    *("evaluate", "evaluation", "inference", "is_inference", "inference_mode", "test", "is_test"),
    *("testing", "is_testing", "test_mode", "disable_dropout"),
)

# There is no convention for the name of the flag; these are the ones in use, and what they say.
TRAIN_ARGUMENTS = dict.fromkeys(_TRAINING, True) | dict.fromkeys(_EVALUATING, False)

# As attributes, which NNX modules have, some of these names stand for other things.
_ATTRIBUTES = {
    name: trains
    for name, trains in TRAIN_ARGUMENTS.items()
    if name not in ("train", "eval", "test", "testing", "evaluate", "evaluation")
}


def method_of(module: Any, name: str) -> Callable[..., Array]:
    """The method ``name`` of a module, or an error that says how to write it."""
    method = getattr(module, name, None)
    if callable(method):
        return method
    raise InputTypeError(
        f"{type(module).__name__} has no method {name!r}, but this algorithm needs it: give the "
        "module `features(x)`, the input of its last layer, and write `__call__` as "
        "`head(features(x))`."
    )


def head_of(module: Any, features: Any, **flags: bool) -> Array:
    """A module's outputs where its features are these."""
    method_of(module, "features")
    vars(module)["features"] = lambda *args, **options: features  # hides the method
    outputs = module(None, **flags)
    del vars(module)["features"]
    return outputs


def both_of(module: Any, x: Any, **flags: bool) -> tuple[Array, Array]:
    """A module's outputs, and the features on the way to them."""
    outputs, _, features = _passing(module, "features", x, flags)
    return outputs, features


def passed_of(module: Any, x: Any, **flags: bool) -> tuple[Array, tuple[Array, Array]]:
    """A module's outputs, and the input and output of its last block on the way to them."""
    outputs, before, after = _passing(module, "last_block", x, flags)
    return outputs, (before, after)


def _passing(module: Any, name: str, x: Any, flags: dict[str, bool]) -> tuple[Array, Array, Array]:
    """A module's outputs, and the input and output of its method ``name`` on the way."""
    method, seen = method_of(module, name), []

    def recorded(x: Any, *args: Any, **options: Any) -> Array:
        seen.append((x, method(x, *args, **options)))
        return seen[-1][1]

    vars(module)[name] = recorded  # as an attribute of this object it hides the method
    outputs = module(x, **flags)
    del vars(module)[name]
    if len(seen) != 1:
        raise InputTypeError(
            f"{type(module).__name__}.__call__ calls `{name}` {len(seen)} times, but this "
            f"algorithm needs {_NEEDED[name]}."
        )
    return outputs, *seen[0]


_NEEDED = {
    "features": "features and outputs of one pass: write it as `head(features(x))`",
    "last_block": "a network with one last block: take one with hidden layers",
}


def set_mode(module: nnx.Module, *, train: bool) -> None:
    """Puts an NNX module and all within it in training or evaluation mode.

    Beside the attributes that Flax knows, flags of the user's own modules are set, by name.
    """
    module.train() if train else module.eval()
    for _, inner in nnx.iter_modules(module):
        for name, trains in _ATTRIBUTES.items():
            if isinstance(vars(inner).get(name), bool):
                setattr(inner, name, trains == train)


def flags_of(
    module: linen.Module | nnx.Module, name: str | None = None
) -> Callable[[Callable[..., Any], bool], dict[str, Any]]:
    """From a method of a module and the mode to the arguments that choose the mode.

    Args:
      module: whose ``__call__`` may take one of `TRAIN_ARGUMENTS`.
      name: of that argument; by default all of them that it takes.

    Raises:
      ValueError: if ``name`` is not one of `TRAIN_ARGUMENTS`.
      TypeError: if the module does not take it, or cannot be called without another argument.
    """
    if name is not None and name not in TRAIN_ARGUMENTS:
        raise InputError(
            f"train_argument is {name!r}, but must be one of {sorted(TRAIN_ARGUMENTS)}: rename the "
            "module's argument."
        )
    taken = inspect.signature(module).parameters
    found = [known for known in TRAIN_ARGUMENTS if known in taken] if name is None else [name]
    if name is not None and name not in taken:
        raise InputTypeError(
            f"train_argument is {name!r}, but {type(module).__name__} takes {list(taken)}: name "
            "one of these, or leave train_argument out."
        )
    _check_arguments(type(module).__name__, list(taken.values())[1:], found)

    def flags(method: Callable[..., Any], train: bool) -> dict[str, bool]:
        takes = inspect.signature(method).parameters
        return {known: TRAIN_ARGUMENTS[known] == train for known in found if known in takes}

    return flags


def _check_arguments(name: str, others: Sequence[inspect.Parameter], flags: Sequence[str]) -> None:
    """Raises TypeError if a module must be given more than inputs and flags."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for other in others:
        needed = other.default is inspect.Parameter.empty and other.kind not in several
        if needed and other.name not in flags:
            raise InputTypeError(
                f"{name}.__call__ cannot be called without {other.name!r}, but a model is given "
                "its inputs, all of them in one argument, and a flag for training: call that "
                f"`train`, or one of {', '.join(TRAIN_ARGUMENTS)}."
            )
