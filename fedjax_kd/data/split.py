"""Checks of a division among clients: what partitioners, and users' own functions, return."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.rows import Partitioner, Parts
from fedjax_kd.errors import InputError, InputTypeError

Split = Partitioner | Callable[[Dataset], Any] | Sequence[Any] | Mapping[Any, Any]
"""How rows are divided: a function of the data set, or what it would return."""


def parts_of(split: Split, dataset: Dataset) -> Parts:
    """Row numbers of the training set for every client, int64, checked.

    Args:
      split: a function of the data set, or what it would return: for each client row numbers, in
        an array, a list or a range, or a mask, an array of N booleans. In a dict they are the
        values. A client may have no rows.
      dataset: that is divided.

    Raises:
      TypeError: if rows are neither whole numbers nor booleans, or are nested in another way.
      ValueError: if there is no client or no row, or a client has a row that does not exist, or
        one twice.

    Example:
      >>> from fedjax_kd.data.dataset import from_arrays
      >>> data = from_arrays(np.eye(3), np.arange(3), np.eye(3), np.arange(3))
      >>> [rows.tolist() for rows in parts_of([range(2), [False, False, True]], data)]
      [[0, 1], [2]]
    """
    given = split(dataset) if callable(split) else split
    if isinstance(given, Mapping):
        given = list(given.values())
    if given is None or isinstance(given, str) or not hasattr(given, "__iter__"):
        raise InputTypeError(
            f"The division among clients is a {type(given).__name__}, but must hold, for each "
            "client, the numbers of its training rows: return a list of arrays."
        )
    parts = [_rows(client, rows, dataset.train.num_rows) for client, rows in enumerate(given)]
    if not sum(map(len, parts)):
        raise InputError(
            f"The division among clients has {len(parts)} clients with no row together, but at "
            "least one must have one: check the function or list that makes it."
        )
    _warn_of_shared(parts, dataset.train.num_rows)
    return parts


def _rows(client: int, given: Any, count: int) -> NDArray[np.int64]:
    """The rows of one client."""
    try:
        rows = np.asarray(given)
    except ValueError as error:
        raise _nested(client, "lists of different lengths") from error
    if rows.ndim != 1:
        raise _nested(client, "one number" if rows.ndim == 0 else f"an array {list(rows.shape)}")
    if len(rows) == 0:
        return np.zeros(0, np.int64)
    if rows.dtype == bool:
        if len(rows) != count:
            raise InputError(
                f"Client {client} has a mask of {len(rows)} rows, but there are {count} training "
                "rows: a mask says of each of them whether it is the client's."
            )
        return np.flatnonzero(rows).astype(np.int64)
    if rows.dtype.kind not in "iu":
        raise InputTypeError(
            f"The rows of client {client} are {rows.dtype}, but must be whole numbers or booleans: "
            "convert them by .astype(int)."
        )
    if rows.min() < 0 or rows.max() >= count:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise InputError(
            f"Client {client} has row {wrong}, but training rows are numbered from 0 to "
            f"{count - 1}: check how they were counted."
        )
    kinds, often = np.unique(rows, return_counts=True)
    if len(kinds) < len(rows):
        hint = "; a mask must be booleans: .astype(bool)" if len(rows) == count else ""
        raise InputError(
            f"Client {client} has row {kinds[often.argmax()]} {often.max()} times, but a row "
            f"counts once: leave out what is twice, as by numpy.unique{hint}."
        )
    return rows.astype(np.int64)


def _nested(client: int, what: str) -> InputTypeError:
    return InputTypeError(
        f"Client {client} has {what} for its rows, but each client has one list of row numbers: "
        "give [[0, 1], [2, 3]] for two clients. Of an array that says whose each row is, make it "
        "by [numpy.flatnonzero(owner == c) for c in numpy.unique(owner)]."
    )


def _warn_of_shared(parts: Parts, count: int) -> None:
    """Tells of rows that several clients have: that may be meant, so it is not refused."""
    owners = np.bincount(np.concatenate(parts), minlength=count)
    if (shared := int((owners > 1).sum())) == 0:
        return
    first = int(np.argmax(owners > 1))
    among = [client for client, rows in enumerate(parts) if first in rows][:2]
    warnings.warn(
        f"{shared} training rows belong to several clients, such as row {first} to clients "
        f"{among[0]} and {among[1]}: each of them trains on these rows.",
        UserWarning,
        stacklevel=4,
    )
