"""Data sets by name: scikit-learn's digits, files of a folder, Shakespeare's plays, tfds."""

from __future__ import annotations

import difflib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.data.shakespeare import load_shakespeare
from fedjax_kd.data.tfds import load_tfds
from fedjax_kd.errors import InputError

DATA_DIR_VARIABLE = "FEDJAX_KD_DATA"
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def load(name: str = "digits", *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set ``name``, as checked NumPy arrays on the host.

    * ``digits``: scikit-learn's 8x8 digits, which come with the installation; every fifth row,
      sorted by class, is a test row.
    * ``tfds:NAME``: TensorFlow Datasets' NAME, prepared as array_record in ``data_dir``.
    * ``shakespeare``: next-character prediction from ``data_dir/shakespeare.jsonl``; a client is a
      role.
    * any other NAME: ``data_dir/NAME.npz`` with train_x, train_y, test_x, test_y, and perhaps
      columns such as train_client, train_domain, train_coarse.

    Args:
      name: see above; `sources` lists what there is.
      data_dir: folder of the files; the environment variable FEDJAX_KD_DATA if None. For tfds:
        its usual folder if None and the variable is not set.

    Raises:
      ValueError: if the name is unknown, the folder or file is missing or unreadable, or its
        arrays have wrong keys, shapes or values.
      TypeError: if an array has a dtype that cannot be converted.

    Example:
      >>> data = load("digits")
      >>> data.train.x.shape, data.test.x.shape, str(data.train.x.dtype), data.num_classes
      ((1437, 8, 8, 1), (360, 8, 8, 1), 'uint8', 10)
    """
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if name == "digits":
        return _digits()
    if name.startswith("tfds:"):
        return load_tfds(name.removeprefix("tfds:"), data_dir=folder)
    if name == "shakespeare":
        return load_shakespeare(_file(name, folder, ".jsonl"))
    return _from_npz(name, _file(name, folder, ".npz"))


def sources(data_dir: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What `load` finds: a line of description by name, files of the data folder included.

    Args:
      data_dir: folder of the files; the environment variable FEDJAX_KD_DATA if None.

    Example:
      >>> list(sources())[:2]
      ['digits', 'tfds:NAME']
    """
    found = {
        "digits": "scikit-learn's 8x8 digits, 10 classes, 1437 + 360 rows; needs no download",
        "tfds:NAME": "TensorFlow Datasets' NAME, prepared as array_record in the data folder",
    }
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if folder is not None:
        if (Path(folder) / "shakespeare.jsonl").is_file():
            found["shakespeare"] = (
                "next character of Shakespeare's plays, 90 symbols, a client a role"
            )
        found |= {
            path.stem: f"arrays of {path.name}" for path in sorted(Path(folder).glob("*.npz"))
        }
    return found


def _digits() -> Dataset:
    """Scikit-learn's digits; the cut depends on nothing but the rows' order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = images.astype(np.uint8).reshape(-1, 8, 8, 1)
    by_class = np.argsort(labels, kind="stable")
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::5]] = True
    return from_arrays(
        x[~is_test], labels[~is_test], x[is_test], labels[is_test], name="digits", num_classes=10
    )


def _file(name: str, folder: str | os.PathLike[str] | None, suffix: str) -> Path:
    """The file of a data set, or an error that says what there is instead."""
    if folder is None:
        raise InputError(
            f"data set {name!r} is read from a folder, but none is given; without one there are "
            f"'digits' and 'tfds:NAME': pass data_dir (--data-dir) or set {DATA_DIR_VARIABLE}."
        )
    if not Path(folder).is_dir():
        raise InputError(
            f"data folder {os.fspath(folder)!r} does not exist or is no folder: pass the folder "
            f"that holds {name}{suffix} as data_dir (--data-dir)."
        )
    path = Path(folder) / f"{name}{suffix}"
    if path.is_file():
        return path
    names = list(sources(folder))
    near = difflib.get_close_matches(name, names, n=3)
    raise InputError(
        f"data set {name!r} is unknown: {os.fspath(folder)!r} holds no {path.name}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"There are {', '.join(names)}."
    )


def _from_npz(name: str, path: Path) -> Dataset:
    """A data set from the arrays of an npz file."""
    arrays = _read_npz(path)
    missing = [key for key in _ARRAYS if key not in arrays]
    if missing:
        raise InputError(
            f"{path.name} holds {', '.join(arrays) or 'nothing'}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: a data set needs "
            f"{', '.join(_ARRAYS)}, and may have columns such as train_client; divide the rows "
            "into training and test rows first."
        )
    try:
        return from_arrays(
            *(arrays[key] for key in _ARRAYS),
            name=name,
            train_columns=_columns(arrays, "train_"),
            test_columns=_columns(arrays, "test_"),
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path.name}: {error}") from error


def _columns(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The further arrays of one part, by the rest of their key."""
    keys = [key for key in arrays if key.startswith(part) and key not in _ARRAYS]
    return {key.removeprefix(part): arrays[key] for key in keys}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file; nothing is unpickled."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("it holds one bare array")
        with archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as an npz file ({error}), but must be one that holds plain "
            "arrays, no Python objects: write it again with numpy.savez_compressed."
        ) from error
