"""A data set on the host: checked NumPy arrays, in the dtypes that the project expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.data import checks
from fedjax_kd.data.arrays import as_arrays, by_name, count_rows, take_rows, types_shown
from fedjax_kd.data.numbering import check_numbering, renumbered
from fedjax_kd.errors import InputError
from fedjax_kd.problems import CLASSIFICATION, Problem, problem_named, problem_of
from fedjax_kd.problems.targets import any_numbers


class Examples(NamedTuple):
    """Rows of one part of a data set.

    ``x`` is an array ``[N, ...]``, or several in dicts and tuples: uint8 (images), float32, or
    int32 (tokens). ``y`` are targets as the data set's problem stores them, or ``()`` if there are
    none. ``columns`` holds further values a row, ``[N]`` each, such as ``client``, ``domain`` or
    ``coarse``.
    """

    x: PyTree
    y: PyTree
    columns: Mapping[str, np.ndarray]

    @property
    def num_rows(self) -> int:
        """N."""
        return count_rows(self.x)

    def at(self, rows: NDArray[np.int64]) -> Examples:
        """Some of the rows."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Examples(take_rows(self.x, rows), take_rows(self.y, rows), columns)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training and test examples, and what is asked of a model; checked when built.

    The arrays must have the dtypes that `Examples` names; `from_arrays` converts other ones.

    Args:
      name: what reports call it.
      train: the rows that partitioners give to clients.
      test: the rows of the global evaluation, of the same example shapes and dtypes.
      num_classes: L, the size of a model's outputs: classes (targets are 0..L-1), labels or values.
      problem: what the targets are, from `fedjax_kd.problems`.
      class_names: what the classes were called before they were numbered, or ``()``.

    Raises:
      TypeError: if an array has another dtype.
      ValueError: if lengths, shapes or values do not fit together; the message names the part.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    problem: Problem = CLASSIFICATION
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, examples in (("train", self.train), ("test", self.test)):
            checks.check_rows(part, *examples)
            by_name(checks.check_input, f"{part}_x", examples.x)
            checks.check_targets(f"{part}_y", examples.y, self.problem)
        for name in ("x", "y"):
            pair = getattr(self.train, name), getattr(self.test, name)
            checks.check_alike(f"train_{name}", f"test_{name}", *pair)
        checks.check_columns_alike(self.train.columns, self.test.columns)
        checks.check_size(self.problem, (self.train.y, self.test.y), self.num_classes)

    @property
    def labels(self) -> np.ndarray | None:
        """A class a training row ``[N]``, by which partitioners may divide; None if there is none.

        Example:
          >>> from_arrays([[0.0], [1.0]], [0.5, 1.5], [[2.0]], [2.5]).labels is None
          True
        """
        return self.problem.classes(self.train.y)

    def __repr__(self) -> str:
        sizes = f"{self.train.num_rows:,} + {self.test.num_rows:,} rows"
        return (
            f"Dataset({self.name!r}, {self.problem.name}, {sizes}, x {types_shown(self.train.x)}, "
            f"num_classes={self.num_classes})"
        )


def from_arrays(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    *,
    name: str = "arrays",
    problem: str | Problem | None = None,
    num_classes: int | None = None,
    relabel: bool = False,
    train_columns: Mapping[str, np.ndarray] | None = None,
    test_columns: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """A checked `Dataset` from arrays of any integer or float dtype.

    Bytes stay bytes (uint8), other integer inputs become int32, floats float32. Targets are stored
    as their problem has them: classes and labels int32, values float32.

    Args:
      train_x: inputs ``[N, ...]``, one array or several in dicts and tuples.
      train_y: targets: a class an example ``[N]``; for sequences ``[N, T]`` and masks ``[N, H, W]``
        a class a place, where -1 marks places to ignore; zeros and ones ``[N, L]`` for several
        labels; floats ``[N]`` or ``[N, D]`` for values. None, or ``()``, if there are none.
      test_x: inputs of the test examples, of the same example shape.
      test_y: targets of the test examples.
      name: what reports call it.
      problem: what the targets are: a name of `fedjax_kd.problems.PROBLEMS` or a problem; by
        default what `fedjax_kd.problems.problem_of` reads from the arrays.
      num_classes: L; 1 + the largest label of both parts if None. Given, it also says that classes
        without a row are meant.
      relabel: whether classes, numbers or words, are numbered anew from 0 in their sorted order,
        over both parts; what they were is kept in ``class_names``.
      train_columns: further values a training row, ``[N]`` each, by name.
      test_columns: likewise for the test rows.

    Raises:
      TypeError: if targets are not what the problem needs, or inputs are no numbers.
      ValueError: if lengths, shapes or values do not fit together, or classes have gaps that come
        from their numbering.

    Example:
      >>> data = from_arrays(np.zeros((6, 2)), np.arange(6) % 3, np.ones((3, 2)), np.arange(3))
      >>> data.num_classes, str(data.train.x.dtype), str(data.train.y.dtype), data.problem.name
      (3, 'float32', 'int32', 'classification')
      >>> zoo = from_arrays(np.eye(2), ["cat", "ant"], np.eye(2), ["ant", "cat"], relabel=True)
      >>> zoo.class_names, zoo.train.y
      (('ant', 'cat'), array([1, 0], dtype=int32))
    """
    given = {"train": (train_x, train_y, train_columns), "test": (test_x, test_y, test_columns)}
    raw = {part: _raw(*arrays) for part, arrays in given.items()}
    for part, examples in raw.items():
        checks.check_rows(part, *examples)
    checks.check_alike("train_x", "test_x", raw["train"].x, raw["test"].x)
    names: tuple[str, ...] = ()
    if relabel:
        (first, second), names = renumbered([raw[part].y for part in raw])
        raw = {"train": raw["train"]._replace(y=first), "test": raw["test"]._replace(y=second)}
    if problem is None:
        problem = problem_of(raw["train"].x, raw["train"].y)
    elif isinstance(problem, str):
        problem = problem_named(problem)
    if relabel and not problem.are_classes:
        raise InputError(
            f"relabel numbers classes anew, but the targets are {problem.says}: leave it out."
        )
    train, test = (_converted(part, examples, problem) for part, examples in raw.items())
    if num_classes is None:
        num_classes = max(problem.size([train.y, test.y]), len(names))
        check_numbering(problem, train.y, test.y)
    made = Dataset(name, train, test, num_classes, problem, names)
    checks.warn_of_scale(train.x, test.x)
    return made


def _raw(x: Any, y: Any, columns: Mapping[str, Any] | None) -> Examples:
    """Arrays as they were given; lists and the like become arrays."""
    held = {name: np.asarray(column) for name, column in (columns or {}).items()}
    return Examples(as_arrays(x), () if y is None else as_arrays(y), held)


def _converted(part: str, raw: Examples, problem: Problem) -> Examples:
    """The arrays of one part, in the dtypes of their problem."""
    checks.check_one_array(f"{part}_y", raw.y, problem)
    x = by_name(any_numbers, f"{part}_x", raw.x)
    return raw._replace(x=x, y=problem.stored(f"{part}_y", raw.y))


def posed_as(dataset: Dataset, problem: str | Problem) -> Dataset:
    """The same arrays with other targets, such as values in place of classes.

    Raises:
      TypeError: if the targets cannot be these.
      ValueError: likewise.

    Example:
      >>> data = from_arrays(np.zeros((6, 2)), np.arange(6) % 3, np.ones((3, 2)), np.arange(3))
      >>> posed_as(data, "regression").train.y.shape
      (6, 1)
    """
    problem = problem_named(problem) if isinstance(problem, str) else problem
    if problem is dataset.problem:
        return dataset
    train, test = (_converted(part, getattr(dataset, part), problem) for part in ("train", "test"))
    kept = problem.are_classes or problem.any_targets
    size = dataset.num_classes if kept else problem.size([train.y, test.y])
    names = dataset.class_names if problem.are_classes else ()
    return Dataset(dataset.name, train, test, size, problem, names)


def without_targets(examples: Examples) -> bool:
    """Whether examples have no targets, so that their inputs stand for them."""
    return not jax.tree.leaves(examples.y)
