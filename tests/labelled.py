"""A small data set with every column that partitioners ask for."""

from __future__ import annotations

import numpy as np

from fedjax_kd.data import Dataset, from_arrays

LABELS = 10


def labelled(rows: int = 600, labels: int = LABELS) -> Dataset:
    """Rows with labels, two labels a coarse one, three domains, clients of 7 rows."""
    numbers = np.arange(rows)
    y = numbers * 7919 % labels
    columns = {"coarse": y // 2, "domain": numbers % 3, "client": numbers // 7}
    return from_arrays(
        np.zeros((rows, 1)),
        y,
        np.zeros((1, 1)),
        np.zeros(1, int),
        num_classes=labels,
        train_columns=columns,
    )


def sizes(parts):
    return np.array([len(part) for part in parts])


def assert_every_row_once(parts, rows):
    assert all(part.dtype == np.int64 for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
