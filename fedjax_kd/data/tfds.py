"""TensorFlow Datasets by name: reading needs no TensorFlow, preparing does."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.errors import InputError
from fedjax_kd.problems import CLASSIFICATION

_PARTS = ("train", "test")


def load_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """A classification set of TensorFlow Datasets that is prepared as array_record.

    The set's supervised keys, or features ``image`` and ``label``, become x and y; further scalar
    integers become columns, a trailing ``_label`` of their names cut (``coarse_label`` is column
    ``coarse``). Rows are in the order of the files. TensorFlow is not imported.

    Args:
      name: as tfds knows it, e.g. ``mnist`` or ``emnist/byclass``.
      data_dir: the folder that it was prepared in; tfds's usual folder if None.

    Raises:
      ValueError: if a package is missing, the name is unknown, or the set is not prepared as
        array_record or is no classification set with train and test rows.
    """
    _require(
        ("tensorflow_datasets", "array_record", "PIL", "importlib_resources"),
        "install fedjax-kd with its dependencies, on Linux or macOS: array_record has no release "
        "for Windows.",
    )
    builder = _builder(name, data_dir)
    if not builder.is_prepared():
        raise InputError(
            f"tfds:{name} is not prepared in {builder.data_dir}: run "
            f"`{_command(name, data_dir)}`, which needs TensorFlow, or pass the folder "
            "that it was prepared in as data_dir (--data-dir)."
        )
    try:
        sources = {part: builder.as_data_source(split=part) for part in _splits(name, builder)}
    except NotImplementedError as error:
        raise InputError(
            f"tfds:{name} in {builder.data_dir} is prepared as {builder.info.file_format.value}, "
            "but only array_record can be read without TensorFlow: run "
            f"`{_command(name, 'ANOTHER_FOLDER')}` and read from there."
        ) from error
    keys = _supervised_keys(name, builder)
    columns = _scalar_integers(builder, keys)
    train, test = (_arrays(name, sources[part], (*keys, *columns)) for part in _PARTS)
    return from_arrays(
        *(arrays[key] for arrays in (train, test) for key in keys),
        name=f"tfds:{name}",
        problem=CLASSIFICATION,
        num_classes=getattr(builder.info.features[keys[1]], "num_classes", None),
        train_columns={columns[key]: train[key] for key in columns},
        test_columns={columns[key]: test[key] for key in columns},
    )


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Downloads a set of TensorFlow Datasets and writes it as array_record, with TensorFlow.

    Args:
      name: as tfds knows it, e.g. ``mnist``.
      data_dir: where to; tfds's usual folder if None.

    Returns:
      The folder that now holds the set.

    Raises:
      ValueError: if a package is missing, the name is unknown, the folder holds the set in
        another format already, or cannot be written, or the source cannot be reached.
    """
    _require(
        ("tensorflow", "tensorflow_datasets", "array_record", "PIL"),
        "run `pip install 'fedjax-kd[tfds-prepare]'`.",
    )
    present = _builder(name, data_dir)
    if present.is_prepared() and present.info.file_format.value != "array_record":
        raise InputError(
            f"{present.data_dir} holds tfds:{name} as {present.info.file_format.value} already, "
            "but array_record is needed: remove that folder, or pass another data_dir (--data-dir)."
        )
    builder = _builder(name, data_dir, file_format="array_record")
    tfds = importlib.import_module("tensorflow_datasets")
    try:
        builder.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        raise InputError(
            f"tfds:{name} could not be downloaded and written to {builder.data_dir} ({error}): "
            "check the network and that the folder can be written, and run it again."
        ) from error
    return str(builder.data_dir)


def _require(modules: Sequence[str], advice: str) -> None:
    """Raises ValueError if a package is not installed; imports nothing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"TensorFlow Datasets needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: {advice}"
        )


def _command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """The command that prepares a data set."""
    folder = "" if data_dir is None else f" --data-dir {os.fspath(data_dir)}"
    return f"fedjax-kd data prepare {name}{folder}"


def _builder(name: str, data_dir: str | os.PathLike[str] | None, **options: str) -> Any:
    """The builder of a data set, or an error with near names."""
    tfds = importlib.import_module("tensorflow_datasets")
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=3)
        raise InputError(
            f"tfds:{name} is unknown to tensorflow-datasets {tfds.__version__}, which has "
            f"{len(known)} data sets: "
            + (f"did you mean {' or '.join(near)}?" if near else "look its name up in its catalog.")
        ) from error


def _splits(name: str, builder: Any) -> tuple[str, ...]:
    """The names of the training and test rows."""
    if missing := [part for part in _PARTS if part not in builder.info.splits]:
        raise InputError(
            f"tfds:{name} has the splits {', '.join(builder.info.splits)}, but {missing[0]!r} is "
            "missing: write its rows to an npz file with train_x, train_y, test_x, test_y instead."
        )
    return _PARTS


def _supervised_keys(name: str, builder: Any) -> tuple[str, str]:
    """The features that are x and y."""
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    has_keys = len(keys) == 2 and all(isinstance(key, str) and key in features for key in keys)
    if not has_keys or not _is_scalar_integer(features[keys[1]]):
        raise InputError(
            f"tfds:{name} has the features {', '.join(features)}, but a classification set needs "
            "image and label, or supervised keys of which the second is a whole number: write its "
            "rows to an npz file with train_x, train_y, test_x, test_y instead."
        )
    return keys[0], keys[1]


def _scalar_integers(builder: Any, keys: tuple[str, str]) -> dict[str, str]:
    """Features that become columns, and the columns' names."""
    features = builder.info.features
    others = [key for key in features if key not in keys and _is_scalar_integer(features[key])]
    return {key: key.removesuffix("_label") for key in others}


def _is_scalar_integer(feature: Any) -> bool:
    """Whether a feature is one whole number a row."""
    dtype = getattr(feature, "np_dtype", None)
    return feature.shape == () and dtype is not None and np.dtype(dtype).kind in "iu"


def _arrays(name: str, rows: Any, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The given features of all rows, stacked."""
    values: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for row in rows:
        for key in keys:
            values[key].append(np.asarray(row[key]))
    shapes = {array.shape for array in values[keys[0]]}
    if len(shapes) != 1:
        raise InputError(
            f"tfds:{name} has inputs of {len(shapes)} shapes, but all must be the same: resize "
            "them, and write an npz file with train_x, train_y, test_x, test_y."
        )
    return {key: np.stack(arrays) for key, arrays in values.items()}
