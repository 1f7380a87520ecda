"""Data sets by name: scikit-learn's digits, files of a folder, Shakespeare's plays, tfds."""

from __future__ import annotations

import difflib
import glob
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedjax_kd.data.builtin import BUILT_IN
from fedjax_kd.data.dataset import Dataset, from_arrays, posed_as
from fedjax_kd.data.shakespeare import load_shakespeare
from fedjax_kd.data.tfds import load_tfds
from fedjax_kd.errors import InputError
from fedjax_kd.problems import problem_named

DATA_DIR_VARIABLE = "FEDJAX_KD_DATA"
_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def load(
    name: str = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    problem: str | None = None,
    relabel: bool = False,
) -> Dataset:
    """The data set ``name``, as checked NumPy arrays on the host.

    * ``digits``: scikit-learn's 8x8 digits, which come with the installation; every fifth row,
      sorted by class, is a test row.
    * ``digits_bits`` (several labels), ``digits_strokes`` (segmentation), ``digits_unlabelled``
      (no targets) and ``diabetes`` (regression) are of other problems, from the same package.
    * ``tfds:NAME``: TensorFlow Datasets' NAME, prepared as array_record in ``data_dir``.
    * ``shakespeare``: next-character prediction from ``data_dir/shakespeare.jsonl``; a client is a
      role.
    * any other NAME: ``data_dir/NAME.npz`` with train_x, train_y, test_x, test_y, and perhaps
      columns such as train_client, train_domain, train_coarse, and ``problem``, a text.

    Args:
      name: see above; `sources` lists what there is.
      data_dir: folder of the files; the environment variable FEDJAX_KD_DATA if None. For tfds:
        its usual folder if None and the variable is not set.
      problem: what the targets are, a name of `fedjax_kd.problems.PROBLEMS`; by default what the
        data set says, or what its arrays look like.
      relabel: whether the classes of an npz file are numbered anew, see `from_arrays`.

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
    if problem is not None:
        problem_named(problem)
    if relabel and (name in BUILT_IN or name == "shakespeare" or name.startswith("tfds:")):
        raise InputError(
            f"relabel numbers the classes of an npz file anew, but those of {name} are numbered "
            "from 0 already: leave it out."
        )
    if name in BUILT_IN:
        found = BUILT_IN[name].load()
    elif name.startswith("tfds:"):
        found = load_tfds(name.removeprefix("tfds:"), data_dir=folder)
    elif name == "shakespeare":
        found = load_shakespeare(_file(name, folder, ".jsonl"))
    else:
        return _from_npz(name, _file(name, folder, ".npz"), problem, relabel)
    return found if problem is None else posed_as(found, problem)


def sources(data_dir: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What `load` finds: a line of description by name, files of the data folder included.

    Args:
      data_dir: folder of the files; the environment variable FEDJAX_KD_DATA if None.

    Example:
      >>> list(sources())[:2]
      ['digits', 'digits_bits']
    """
    found = {
        **{name: source.says for name, source in BUILT_IN.items()},
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


def _file(name: str, folder: str | os.PathLike[str] | None, suffix: str) -> Path:
    """The file of a data set, or an error that says what there is instead."""
    if folder is None:
        raise InputError(
            f"data set {name!r} is read from a folder, but none is given; without one there are "
            f"{', '.join(BUILT_IN)} and tfds:NAME: pass data_dir (--data-dir) or set "
            f"{DATA_DIR_VARIABLE}."
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
    beside = _beside(Path(folder), name)
    near = difflib.get_close_matches(name, names, n=3)
    raise InputError(
        f"data set {name!r} is unknown: {os.fspath(folder)!r} holds no {path.name}. "
        + beside
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"There are {', '.join(names)}."
    )


def _beside(folder: Path, name: str) -> str:
    """A hint about files of that name that are of another kind."""
    others = sorted(path.name for path in folder.glob(f"{glob.escape(name)}.*"))
    if not others:
        return ""
    return (
        f"There is {', '.join(others)}, which is not read: load it in Python, and write its arrays "
        f"by numpy.savez_compressed('{name}.npz', train_x=..., train_y=..., test_x=..., "
        "test_y=...). "
    )


def _from_npz(name: str, path: Path, problem: str | None, relabel: bool) -> Dataset:
    """A data set from the arrays of an npz file."""
    arrays = _read_npz(path)
    if problem is None and "problem" in arrays:
        problem = str(arrays["problem"])
    needed: tuple[str, ...] = _ARRAYS
    if problem is not None and problem_named(problem).any_targets:
        needed = tuple(key for key in _ARRAYS if key.endswith("_x"))
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise InputError(
            f"{path.name} holds {', '.join(arrays) or 'nothing'}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: a data set needs "
            f"{', '.join(_ARRAYS)} (no targets for problem 'none'), and may have columns such as "
            "train_client; divide the rows into training and test rows first."
        )
    try:
        return from_arrays(
            *(arrays.get(key) for key in _ARRAYS),
            name=name,
            problem=problem,
            relabel=relabel,
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
    key = ""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("it holds one bare array")
        arrays = {}
        with archive:
            for key in archive.files:
                arrays[key] = archive[key]
        return arrays
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"{path}: the array {key} holds Python objects, which are not read, since they may "
                "hold programs. Make one array of numbers of them, such as by "
                "numpy.stack(list(rows)) if all rows have one length (cut or pad them before), or "
                "text by .astype(str)."
            ) from error
        raise InputError(
            f"{path} cannot be read as an npz file ({error}), but must be one that holds plain "
            "arrays: write it again with numpy.savez_compressed."
        ) from error
