"""Which test rows each client has to test its own model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset, Examples
from fedjax_kd.data.rows import Parts
from fedjax_kd.problems import Problem


def deal_test(dataset: Dataset, parts: Parts, seed: int) -> Parts:
    """Test rows for each client.

    If a column divides the training rows exactly as ``parts`` do, and the test rows have values of
    it in common with them, it decides: every client gets the test rows of its own value, also if
    these are none, and rows of other values are nobody's. Else each row goes to one client: each
    class's test rows are shared out in proportion to the clients' training rows of this class (of
    any class, where examples have no class of their own or no client trains on this one).
    """
    column = _natural_column(dataset, parts)
    if column is not None:
        ids = _ids(dataset.train.columns[column], parts)
        known = dataset.test.columns[column]
        nobody = np.zeros(0, np.int64)
        return [nobody if i is None else np.flatnonzero(known == i) for i in ids]
    train_y, test_y = (_classes(e, dataset.problem) for e in (dataset.train, dataset.test))
    rng = np.random.default_rng([seed, 1])
    dealt: list[list[NDArray[np.int64]]] = [[] for _ in parts]
    for label in np.unique(test_y):
        rows = rng.permutation(np.flatnonzero(test_y == label))
        order = rng.permutation(len(parts))  # rounding must not favour the first clients
        held = np.array([np.count_nonzero(train_y[parts[c]] == label) for c in order])
        if held.sum() == 0:
            held = np.array([len(parts[c]) for c in order])
        ends = np.rint(np.cumsum(held) / max(held.sum(), 1) * len(rows)).astype(int)
        for c, share in zip(order, np.split(rows, ends)[:-1], strict=True):
            dealt[c].append(share)
    return [np.sort(np.concatenate(rows)).astype(np.int64) for rows in dealt]


def _classes(examples: Examples, problem: Problem) -> NDArray[np.int64]:
    """A class an example; 0 for all where they have none."""
    classes = problem.classes(examples.y)
    return np.zeros(examples.num_rows, np.int64) if classes is None else classes


def _natural_column(dataset: Dataset, parts: Parts) -> str | None:
    """The column by which the clients were made, if the test rows have it and know one of them."""
    for name, values in dataset.train.columns.items():
        each = [np.unique(values[part]) for part in parts if len(part)]
        apart = all(len(v) == 1 for v in each) and len(np.unique(np.concatenate(each))) == len(each)
        known = dataset.test.columns.get(name)
        if apart and known is not None and np.isin(np.concatenate(each), known).any():
            return name
    return None


def _ids(values: NDArray, parts: Parts) -> list:
    """Each client's value of a column; None for one without rows."""
    return [values[part[0]] if len(part) else None for part in parts]
