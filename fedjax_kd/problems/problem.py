"""What a data set asks of a model: everything that depends on what its targets are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree
from fedjax_kd.losses import ExampleLoss
from fedjax_kd.metrics import METRICS, Metric

Shape = tuple[int, ...]


def _nothing(targets: PyTree) -> None:
    """No class an example."""
    return None


@dataclass(frozen=True)
class Problem:
    """Targets of one kind: how they are checked, scored and measured.

    Attributes:
      name: as on the command line.
      says: what the targets are, for messages.
      stored: ``(name of the array, targets) -> targets`` as they are stored; raises what is wrong
        with them. Host arrays.
      size: targets of all parts -> L, the size of the outputs: classes, labels or values.
      outputs: ``(shape of one target, L) -> shape`` of what a model gives for one example. A
        classifier may know more classes than there are.
      score: the loss by default; None if it has to be given.
      measures: names of `fedjax_kd.metrics.METRICS`, beside the loss.
      headline: the one that a method is judged by; "loss" is one of them.
      classes: targets -> a class an example ``[N]``, by which partitioners may divide them; None
        if there is none.
      are_classes: whether targets are numbers of classes, as many methods need them.
      free_outputs: whether models with a loss of their own may have outputs of any shape.
      any_targets: whether targets may be anything: several arrays, or none at all.
    """

    name: str
    says: str
    stored: Callable[[str, Any], Any]
    size: Callable[[Sequence[Any]], int]
    outputs: Callable[[Shape, int], Shape]
    score: ExampleLoss | None
    measures: tuple[str, ...] = ()
    headline: str = "loss"
    classes: Callable[[Any], NDArray[Any] | None] = field(default=_nothing)
    are_classes: bool = False
    free_outputs: bool = False
    any_targets: bool = False

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What an evaluation tells beside the loss, by name."""
        return {name: METRICS[name] for name in self.measures}

    @property
    def larger_is_better(self) -> bool:
        """Whether more of the headline metric is better."""
        return self.headline != "loss" and METRICS[self.headline].larger_is_better

    @property
    def one_class_each(self) -> bool:
        """Whether each example has one class."""
        return self.are_classes and self.classes is not _nothing


def trailing(targets: Any) -> Shape:
    """The shape of one target.

    Example:
      >>> trailing(np.zeros((5, 2, 3)))
      (2, 3)
    """
    return tuple(np.shape(targets)[1:])
