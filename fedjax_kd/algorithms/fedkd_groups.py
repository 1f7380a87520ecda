"""FedKD where clients have mentors of several architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedjax_kd.algorithms.fedkd import fedkd
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedkd, fixes=["mentor"])
def fedkd_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fedkd` of one student, like the first task, and a mentor like each task: a group of each.

    Args:
      tasks: classifiers of the same examples and classes; the smallest comes first.
      fit: local training of student and mentor at once.
    """
    return tuple(fedkd(tasks[0], fit, mentor=mentor, **options) for mentor in tasks)
