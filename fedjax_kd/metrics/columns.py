"""What the columns of evaluations are called."""

from __future__ import annotations

import re
from collections.abc import Iterable

JUDGED = "judged_"
"""Before the name of the headline metric: the column that a method is judged by."""

TRAIT = "trait_"
"""Before the name of what clients have found out about themselves, over all clients."""

_BEFORE = (
    r"(?:test|validation|judged|client|personal|finetuned|head|middle|tail"
    r"|group_\d+|class_\d+)_"
)
_AFTER = r"(?:_(?:mean|std|variance|q\d\d|worst_decile|jain))?"


def metric_of(column: str) -> str:
    """The metric of a column of an evaluation; the column's own name if it is none.

    Example:
      >>> metric_of("client_accuracy_worst_decile"), metric_of("test_mae"), metric_of("train_loss")
      ('accuracy', 'mae', 'train_loss')
    """
    found = re.fullmatch(f"{_BEFORE}(.+?){_AFTER}", column)
    return found[1] if found else column


def judged_column(columns: Iterable[str]) -> str | None:
    """The column that a method is judged by; None before anything was evaluated.

    Example:
      >>> judged_column(["round", "test_loss", "judged_mae"])
      'judged_mae'
    """
    return next((name for name in columns if name.startswith(JUDGED)), None)
