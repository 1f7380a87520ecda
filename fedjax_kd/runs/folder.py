"""Run folders: the files that a run writes, and how they are read again.

========== ======================================================================================
config.json   the configuration; versions, device and commit that it ran with; digests of its data;
              its warnings
metrics.csv   a row a round; the evaluation's columns are empty in other rounds
summary.json  final and best accuracy, bytes, speed, and the status
best/         with --keep-best: checkpoints of the best evaluation, and of the best before it
lock          while a process writes to the folder
curve.png, partition.png, clients.csv, checkpoints/
========== ======================================================================================
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_kd.errors import FileError, InputError
from fedjax_kd.runs import provenance
from fedjax_kd.runs.config import Config, from_json, to_json
from fedjax_kd.runs.fingerprint import Fingerprint
from fedjax_kd.runs.lock import LOCK
from fedjax_kd.train import Row

BEST_STATES = "best"
"""The folder of a run's best checkpoints."""
COUNTS = ("round", "clients", "rejected", "bytes_down", "bytes_up", "steps", "steps_computed")
_WHOLE = ("point", *COUNTS)
_PART = ".part"
_FIRST = ("config.json", "comparison.json", "sweep.json")  # nothing else is written before


def create(out: str | None, name: str) -> Path:
    """A new, empty run folder.

    Args:
      out: the folder; by default ``runs/<date>-<time>-<name>`` of the current folder.
      name: what the run is called.

    Raises:
      ValueError: if ``out`` holds anything.
      OSError: if it cannot be made.
    """
    if out is None:
        return _unique(Path("runs"), f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    folder = Path(out)
    check_unused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_unused(folder: Path) -> None:
    """Raises ValueError unless a new run may go there."""
    if folder.exists() and not is_unused(folder):
        raise InputError(
            f"{folder} exists and is not an empty folder: choose another --out, or go on with the "
            f"run that is there by `fedjax-kd resume {folder}`."
        )


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than a run that was killed before it began."""
    left = {LOCK, *(name + _PART for name in _FIRST)}
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= left


def _unique(parent: Path, name: str) -> Path:
    """A new folder of this run alone, however many runs begin in one second."""
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileError(f"{parent} holds 999 runs called {name}: clear it up, or give --out.")


def members(folder: Path) -> list[Path]:
    """The run folders in a folder: itself, or those of a comparison, by name.

    Raises:
      ValueError: if there is none.
    """
    if (folder / "config.json").is_file():
        return [folder]
    if (folder / "sweep.json").is_file():
        raise InputError(
            f"{folder} is a sweep, whose points have no folders of their own: `fedjax-kd report "
            f"{folder}` shows it."
        )
    inner = sorted(path.parent for path in folder.glob("*/config.json"))
    if not inner and is_unused(folder):
        raise InputError(
            f"{folder} is empty: what was to be written there was stopped before it began, so "
            f"nothing is lost. Start it anew, with --out {folder} or another folder."
        )
    if not inner:
        raise InputError(
            f"{folder} is no run folder, and holds none: there is no config.json. Give the path "
            "that `fedjax-kd run` printed last."
        )
    return inner


def write_config(
    folder: Path,
    config: Config,
    digests: Fingerprint | None = None,
    first_round: int = 1,
    warnings: Sequence[str] = (),
) -> None:
    """Writes config.json with the versions and the device of this machine.

    Args:
      folder: of the run; what its config.json says of earlier stretches is kept.
      config: of the run.
      digests: of its data.
      first_round: that is trained now.
      warnings: that it gave when it was built.
    """
    record = provenance.recorded(record_of(folder), first_round, digests)
    write_json(folder / "config.json", {**to_json(config), **record, "warnings": list(warnings)})


def record_of(folder: Path) -> dict[str, Any]:
    """What config.json says beside the configuration; empty before there is one."""
    return read_json(folder, "config.json") if (folder / "config.json").is_file() else {}


def read_config(folder: Path) -> Config:
    """The configuration of a run.

    Raises:
      ValueError: if the folder is no run folder, or of another version.
    """
    return from_json(read_json(folder, "config.json"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file that is either the old one or the new one, whenever the process is killed."""
    replace(path, (json.dumps(values, indent=2) + "\n").encode())


def replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: beside the old one first, then in its place.

    The caller holds the folder's lock, or else `replace_shared` is needed.
    """
    partial = path.with_name(path.name + _PART)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def replace_shared(path: Path, content: bytes) -> None:
    """`replace` of a file that several processes may write at once; the last one wins."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
        partial = Path(beside) / path.name
        replace(partial, content)
        partial.replace(path)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file of a run folder.

    Raises:
      ValueError: if it is not there, or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"{folder} is no run folder: it holds no {name}. Give the path that `fedjax-kd run` "
            "printed last."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): start a new run.") from error


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json; empty if the run was killed before there was one."""
    return read_json(folder, "summary.json") if (folder / "summary.json").is_file() else {}


def append_rows(folder: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Adds rows to metrics.csv, with a header if the file is new."""
    path = folder / "metrics.csv"
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if new:
            lines.writerow(columns)
        lines.writerows([_cell(name, row.get(name)) for name in columns] for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_rows(folder: Path) -> list[Row]:
    """The rows of metrics.csv; empty cells are left out, and so is a last line cut short.

    Raises:
      ValueError: if the folder is no run folder.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [
        {name: float(cell) for name, cell in row.items() if cell}
        for row in csv.DictReader(whole.splitlines())
    ]


def truncate_rows(folder: Path, finished: int | None) -> list[Row]:
    """Drops the rows of rounds after ``finished`` (all if None), and returns those that stay."""
    path = folder / "metrics.csv"
    rows = [] if finished is None else [r for r in read_rows(folder) if r["round"] <= finished]
    if rows:
        text = path.read_text(encoding="utf-8")
        replace(path, "".join(text.splitlines(keepends=True)[: len(rows) + 1]).encode())
    else:
        path.unlink(missing_ok=True)
    return rows


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if name in _WHOLE else repr(float(value))
