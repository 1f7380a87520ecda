"""The problems that data sets pose, by name; see `fedjax_kd.problems.problem` for the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd.errors import InputError
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
    lambda name, y: y,
    lambda parts: 1,
    lambda target, size: target,
    squared_error,
)


RETRIEVAL = Problem(
    "retrieval",
    "one identity an example, to be found again among others",
    targets.classes,
    _class_count,
    lambda target, size: (size,),
    cross_entropy,
    ("rank_1", "retrieval_map"),
    "rank_1",
    classes=np.asarray,
    are_classes=True,
    free_outputs=True,
)

NONE = Problem(
    "none",
    "nothing that this library knows: the task brings its own loss",
    lambda name, y: y,
    lambda parts: 1,
    lambda target, size: target,
    None,
    free_outputs=True,
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
    Floats are values to predict. Without targets, or with several arrays, it is none.

    Raises:
      ValueError: if it could be more than one; the message says what to do.

    Example:
      >>> problem_of(np.zeros((5, 2)), np.arange(5)).name, problem_of(None, np.zeros(5)).name
      ('classification', 'regression')
    """
    if y is None or not isinstance(y, np.ndarray):
        return NONE
    if y.dtype.kind == "f":
        return REGRESSION
    if y.ndim <= 1 or y.dtype.kind not in "iub":
        return CLASSIFICATION
    places = np.shape(x)[1 : y.ndim] if isinstance(x, np.ndarray) else ()
    if y.ndim in (2, 3) and places == y.shape[1:] and y.shape[1] > 1:
        return TOKENS if y.ndim == 2 else SEGMENTATION
    if y.ndim == 2 and y.shape[1] > 1 and not targets.is_one_hot(y) and set(np.unique(y)) <= {0, 1}:
        return MULTILABEL
    raise InputError(
        f"y has shape {y.shape} and is {y.dtype}, which no problem can be read from: for one class "
        "an example give shape (N,) (y[:, 0] of a column, y.argmax(axis=1) of one-hot rows), or "
        f"say problem={', '.join(map(repr, PROBLEMS))}."
    )


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
