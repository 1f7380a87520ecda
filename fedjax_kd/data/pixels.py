"""Inputs that are to be given back: pixels over the whole range of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.data.inputs import are_symbols
from fedjax_kd.errors import InputError


def stretched_pixels(dataset: Dataset) -> Dataset:
    """The data set with pixels up to 255, whatever their largest value was (16 in the digits).

    Whole numbers that are no bytes become floats, which are left as they are.

    Raises:
      ValueError: if inputs are symbols, or several arrays.
    """
    x = dataset.train.x
    if not isinstance(x, np.ndarray):
        raise InputError(
            f"The inputs of {dataset.name} are several arrays, and the loss of reconstruction "
            "compares one: give one array, or problem 'none' with a loss of your own."
        )
    if are_symbols(x):
        raise InputError(
            f"The inputs of {dataset.name} are symbols, which have numbers but no distance, and "
            "cannot be a target: take images, or target 'label'."
        )
    if x.dtype != np.uint8:
        return _each(dataset, lambda values: values.astype(np.float32, copy=False))
    largest = int(x.max())
    if largest in (0, 255):
        return dataset
    table = np.rint(np.minimum(np.arange(256) * (255 / largest), 255)).astype(np.uint8)
    return _each(dataset, lambda pixels: table[pixels])


def _each(dataset: Dataset, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Dataset:
    train, test = (e._replace(x=change(e.x)) for e in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test)
