"""Small data sets of several problems, from what scikit-learn ships: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from fedjax_kd.data.dataset import Dataset, from_arrays

_INK = 8  # of 16: a pixel with as much is stroke
_BITS = 4  # of the numbers 0 to 9
_DIMMEST, _NOISE = 0.4, 2.5  # least brightness of an image, and deviation of its noise in ink


class BuiltIn(NamedTuple):
    """A data set that comes with the installation."""

    load: Callable[[], Dataset]
    says: str  # a line of description


def _digits() -> Dataset:
    """Scikit-learn's digits; the cut depends on nothing but the rows' order."""
    images, labels, is_test = _raw_digits()
    x, y = images[..., None], labels
    return from_arrays(
        x[~is_test], y[~is_test], x[is_test], y[is_test], name="digits", num_classes=10
    )


def _raw_digits() -> tuple[UInt8[np.ndarray, "N 8 8"], Int[np.ndarray, " N"], np.ndarray]:
    """Images of 0 to 16 ink a pixel, labels, and which are test rows."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    by_class = np.argsort(labels, kind="stable")
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    return images.astype(np.uint8).reshape(-1, 8, 8), labels, is_test


def _of_digits(
    name: str, x: np.ndarray, y: np.ndarray | None, problem: str, is_test: np.ndarray
) -> Dataset:
    """A data set of the digits' images, which digits they show in column ``digit``."""
    digit = _raw_digits()[1]
    parts = [None if y is None else y[rows] for rows in (~is_test, is_test)]
    return from_arrays(
        x[~is_test],
        parts[0],
        x[is_test],
        parts[1],
        name=name,
        problem=problem,
        train_columns={"digit": digit[~is_test]},
        test_columns={"digit": digit[is_test]},
    )


def _bits() -> Dataset:
    images, labels, is_test = _raw_digits()
    bits = labels[:, None] >> np.arange(_BITS)[None] & 1
    return _of_digits("digits_bits", images[..., None], bits, "multilabel", is_test)


def _strokes() -> Dataset:
    """Which pixels were stroke, from images that are dimmed, each in its own way, and noisy.

    No threshold of ink is right for all images, so that a model has to look around a pixel.
    """
    images, _, is_test = _raw_digits()
    rng = np.random.default_rng(0)
    light = rng.uniform(_DIMMEST, 1, (len(images), 1, 1))
    seen = images * light + rng.normal(0, _NOISE, images.shape)
    x = np.clip(np.rint(seen * 8) + 64, 0, 255).astype(np.uint8)
    return _of_digits(
        "digits_strokes", x[..., None], (images >= _INK).astype(int), "segmentation", is_test
    )


def _unlabelled() -> Dataset:
    images, _, is_test = _raw_digits()
    return _of_digits("digits_unlabelled", images[..., None], None, "none", is_test)


def _diabetes() -> Dataset:
    """Ten measurements of a patient, and how the illness went on a year later."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    is_test = np.arange(len(y)) % 5 == 0
    y = _standard(y, y[~is_test])
    return from_arrays(
        x[~is_test], y[~is_test], x[is_test], y[is_test], name="diabetes", problem="regression"
    )


def _standard(
    y: Float[np.ndarray, " N"], train: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " N"]:
    """Values in deviations from the mean of the training rows."""
    return (y - train.mean()) / train.std()


BUILT_IN: dict[str, BuiltIn] = {
    "digits": BuiltIn(
        _digits, "scikit-learn's 8x8 digits, 10 classes, 1437 + 360 rows; needs no download"
    ),
    "digits_bits": BuiltIn(_bits, "several labels an example: the four bits of each digit"),
    "digits_strokes": BuiltIn(
        _strokes, "segmentation: stroke or background of each pixel of a dim and noisy digit"
    ),
    "digits_unlabelled": BuiltIn(_unlabelled, "the digits without targets, for a loss of your own"),
    "diabetes": BuiltIn(
        _diabetes,
        "regression: scikit-learn's diabetes, 353 + 89 rows; the target is standardised",
    ),
}
