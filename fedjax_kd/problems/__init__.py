"""The problems that data sets pose, by name; see `fedjax_kd.problems.problem` for the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.losses import check_same_shape, cross_entropy, squared_error
from fedjax_kd.options import named
from fedjax_kd.problems import targets
from fedjax_kd.problems.problem import Problem, trailing


def _class_count(parts: Sequence[Any]) -> int:
    return 1 + max(int(np.max(y, initial=0)) for y in parts)


def _values(parts: Sequence[Any]) -> int:
    return int(np.shape(parts[0])[-1])


def label_cross_entropy(logits: Float[Array, "B L"], y: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """Cross-entropy (nats) of each of several labels that hold (1) or do not (0); 0 where -1.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> label_cross_entropy(jnp.zeros((1, 2)), jnp.array([[1, -1]]))
      Array([[0.693, 0.   ]], dtype=float32)
    """
    check_same_shape(logits, y)
    known = (y >= 0).astype(logits.dtype)
    return known * optax.losses.sigmoid_binary_cross_entropy(logits, (y > 0).astype(logits.dtype))


CLASSIFICATION = Problem(
    "classification",
    "one class an example",
    targets.classes,
    _class_count,
    lambda target, size: (size,),
    cross_entropy,
    ("accuracy", "ece"),
    "accuracy",
    classes=np.asarray,
    are_classes=True,
)

TOKENS = Problem(
    "tokens",
    "a class a position of a sequence",
    targets.labels_of(2, "a position"),
    _class_count,
    lambda target, size: (*target, size),
    cross_entropy,
    ("accuracy", "ece"),
    "accuracy",
    are_classes=True,
)

SEGMENTATION = Problem(
    "segmentation",
    "a class a pixel",
    targets.labels_of(3, "a pixel"),
    _class_count,
    lambda target, size: (*target, size),
    cross_entropy,
    ("dice", "iou", "accuracy"),
    "dice",
    are_classes=True,
)

MULTILABEL = Problem(
    "multilabel",
    "several labels an example, which hold or do not",
    targets.yes_or_no,
    _values,
    lambda target, size: (size,),
    label_cross_entropy,
    ("map", "label_f1", "label_accuracy"),
    "map",
)

REGRESSION = Problem(
    "regression",
    "values to predict",
    targets.numbers,
    _values,
    lambda target, size: target,
    squared_error,
    ("mae", "r2"),
    "mae",
)

RECONSTRUCTION = Problem(
    "reconstruction",
    "the inputs themselves",
    targets.anything,
    lambda parts: 1,
    lambda target, size: target,
    squared_error,
    classes=targets.class_if_any,
    any_targets=True,
)

RETRIEVAL = Problem(
    "retrieval",
    "one identity an example, to be found again among others",
    targets.classes,
    _class_count,
    lambda target, size: (size,),
    cross_entropy,
    ("rank_1", "rank_5", "rank_10", "retrieval_map"),
    "rank_1",
    classes=np.asarray,
    are_classes=True,
    free_outputs=True,
)

NONE = Problem(
    "none",
    "nothing that this library knows: the task brings its own loss",
    targets.anything,
    lambda parts: 1,
    lambda target, size: target,
    None,
    classes=targets.class_if_any,
    free_outputs=True,
    any_targets=True,
)

PROBLEMS: dict[str, Problem] = {
    p.name: p
    for p in (
        CLASSIFICATION,
        TOKENS,
        MULTILABEL,
        REGRESSION,
        SEGMENTATION,
        RECONSTRUCTION,
        RETRIEVAL,
        NONE,
    )
}


def problem_named(name: str) -> Problem:
    """The problem of that name.

    Raises:
      ValueError: if there is none.
    """
    return named("problem", name, PROBLEMS)


def problem_of(x: Any, y: Any) -> Problem:
    """The problem that arrays pose if nobody says which.

    One whole number a row is a class; several are tokens where inputs have the same positions, a
    segmentation where inputs are images of the same size, and labels where they are zeros and ones.
    Other floats are values to predict. Without targets, or with several arrays, it is none.

    Raises:
      TypeError: if floats may be classes.
      ValueError: if it could be more than one; the message says what to do.

    Example:
      >>> problem_of(np.zeros((5, 2)), np.arange(5)).name, problem_of(None, np.ones(5) / 2).name
      ('classification', 'regression')
    """
    if y is None or not isinstance(y, np.ndarray):
        return NONE
    numbers = y.dtype.kind in "iubf"
    several = numbers and y.ndim == 2 and y.shape[1] > 1
    yes_or_no = several and set(np.unique(y).tolist()) in ({0, 1}, {-1, 0, 1})
    if y.dtype.kind == "f":
        if not yes_or_no:
            return _values_to_predict(y)
    elif y.ndim <= 1 or not numbers:
        return CLASSIFICATION
    found = [p for p in (TOKENS, SEGMENTATION) if _at_each_place(p, x, y)]
    if yes_or_no and not targets.is_one_hot(y):
        found.append(MULTILABEL)
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"y has shape {y.shape} and is {y.dtype}, which "
        + (f"may be {' or '.join(p.name for p in found)}: say " if found else "no problem has: ")
        + ("" if found else f"{_one_each(y)}, or say ")
        + f"problem={', '.join(map(repr, PROBLEMS))} (--problem)."
    )


def _values_to_predict(y: Any) -> Problem:
    """Regression, unless the values look like numbers of classes."""
    kinds = np.unique(y)
    if y.size // max(y.shape[0], 1) == 1 and np.array_equal(kinds, np.arange(len(kinds))):
        raise InputTypeError(
            f"y is {y.dtype}, but holds the whole numbers 0..{len(kinds) - 1} alone: convert it by "
            ".astype(int) if they are classes, or say problem='regression' (--problem) if they are "
            "values to predict."
        )
    return REGRESSION


def _at_each_place(problem: Problem, x: Any, y: Any) -> bool:
    """Whether whole numbers may be a class for each position, or each pixel, of the inputs."""
    if not isinstance(x, np.ndarray) or y.dtype.kind == "f" or x.shape[1 : y.ndim] != y.shape[1:]:
        return False
    if problem is SEGMENTATION:
        return y.ndim == 3
    # A position is a symbol, or has several values; floats [N, D] are D values of one example.
    positions = x.ndim == 3 or (x.ndim == 2 and x.dtype.kind in "iu")
    return y.ndim == 2 and y.shape[1] > 1 and positions


def _one_each(y: Any) -> str:
    """What to do with targets of an unknown shape."""
    if y.shape[-1] == 1:
        return f"take {'y[:, 0]' if y.ndim == 2 else 'y[..., 0]'}"
    if y.ndim == 2 and targets.is_one_hot(y):
        return "turn one-hot rows into one class an example by y.argmax(axis=1)"
    return "give one class an example, shape (N,)"


__all__ = [
    "CLASSIFICATION",
    "MULTILABEL",
    "NONE",
    "PROBLEMS",
    "RECONSTRUCTION",
    "REGRESSION",
    "RETRIEVAL",
    "SEGMENTATION",
    "TOKENS",
    "Problem",
    "label_cross_entropy",
    "problem_named",
    "problem_of",
    "trailing",
]
