"""Tidy tables, a row an observation, as CSV and as Parquet.

A table is a sequence of rows, a row a mapping from a column's name to its value. An absent value,
None and an empty text are the same: an empty cell.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_kd.errors import InputError
from fedjax_kd.runs import folder as run_folder

CellValue = str | int | float | bool | None
Record = Mapping[str, CellValue]
Where = Mapping[str, Collection[CellValue]]
Columns = Collection[str] | Callable[[str], bool]
"""Names of columns, or which of them."""

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
_TRUTH = {"True": True, "False": False}
_LARGEST = 2**63  # Parquet's integers are smaller


def write_table(path: Path, rows: Sequence[Record], columns: Sequence[str] | None = None) -> Path:
    """Writes a table, whole or not at all; floats are read back to the last bit.

    A column holds one kind of values: numbers that stand beside text become text.

    Args:
      path: a file that ends in .csv or .parquet.
      rows: of the table.
      columns: which, in this order; by default all, as they first appear.

    Raises:
      ValueError: if the file's kind is another one.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "table.csv"
      >>> read_table(write_table(file, [{"method": "fedadam", "tau": 1e-3}, {"method": "fedavg"}]))
      [{'method': 'fedadam', 'tau': 0.001}, {'method': 'fedavg', 'tau': None}]
    """
    names = list(dict.fromkeys(n for row in rows for n in row)) if columns is None else [*columns]
    table = {name: _uniform([_plain(row.get(name)) for row in rows]) for name in names}
    encode = _kind(path, {".csv": _to_csv, ".parquet": _to_parquet})
    run_folder.replace(path, encode(table))
    return path


def read_table(
    path: Path,
    columns: Columns | None = None,
    where: Where | None = None,
) -> list[dict[str, CellValue]]:
    """The rows of a table; empty cells are None.

    Args:
      path: a file that ends in .csv or .parquet. In CSV, a column whose cells all look like
        integers, numbers or truth values holds such.
      columns: only these, as far as they are there, or those of which a function says so; all if
        None.
      where: only rows whose values in these columns are among the given ones.

    Raises:
      ValueError: if the file's kind is another one, or it is damaged.
      OSError: if it cannot be read.
    """
    decode = _kind(path, {".csv": _from_csv, ".parquet": _from_parquet})
    where = where or {}
    wanted = _wanted(columns, where)
    content = path.read_bytes()
    try:
        table = decode(content, wanted, where)
    except (ValueError, OSError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): write it anew.") from error
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return [row for row in rows if all(row[name] in kept for name, kept in where.items())]


def _wanted(columns: Columns | None, where: Where) -> Callable[[str], bool]:
    """Whether a column is read; those with a condition are."""
    if columns is None:
        return lambda name: True
    asked = columns if callable(columns) else columns.__contains__
    return lambda name: name in where or asked(name)


def _kind(path: Path, kinds: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The reader or writer for the end of the file's name."""
    if path.suffix not in kinds:
        raise InputError(f"The table is {path}, but must end in {' or '.join(kinds)}: rename it.")
    return kinds[path.suffix]


def _plain(value: Any) -> CellValue:
    """A Python value of a NumPy one; None for an empty text."""
    value = value.item() if hasattr(value, "item") else value
    return None if value == "" else value


def _uniform(values: list[CellValue]) -> list[CellValue]:
    """Values of one kind."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and all(value is None or abs(int(value)) < _LARGEST for value in values):
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return values if len(kinds) == 1 else [None if v is None else _text(v) for v in values]


def _text(value: CellValue) -> str:
    """A cell of CSV."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _to_csv(table: Mapping[str, list[CellValue]]) -> bytes:
    text = io.StringIO(newline="")
    rows = [[*map(_text, row)] for row in zip(*table.values(), strict=True)]
    # Left to itself, `csv` quotes a line feed but no carriage return, which ends a line as well.
    returns = any("\r" in cell for row in rows for cell in row)
    lines = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    )
    lines.writerow(table)
    lines.writerows(rows)
    return text.getvalue().encode()


def _from_csv(
    content: bytes, wanted: Callable[[str], bool], _: Where
) -> dict[str, list[CellValue]]:
    lines = csv.reader(io.StringIO(content.decode(), newline=""))
    names = next(lines, [])
    columns = list(zip(*([*line, *[""] * (len(names) - len(line))] for line in lines), strict=True))
    chosen = [i for i, name in enumerate(names) if wanted(name)]
    return {names[i]: _parsed(columns[i]) if columns else [] for i in chosen}


def _parsed(cells: Sequence[str]) -> list[CellValue]:
    """The values of a column: of the narrowest kind that fits all cells."""
    filled = [cell for cell in cells if cell]
    for fits, parse in _PARSERS:
        if all(map(fits, filled)):
            return [parse(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


_PARSERS: tuple[tuple[Callable[[str], Any], Callable[[str], CellValue]], ...] = (
    (_INTEGER.fullmatch, int),
    (_NUMBER.fullmatch, float),
    (_TRUTH.__contains__, _TRUTH.__getitem__),
)


def _to_parquet(table: Mapping[str, list[CellValue]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(table)), file, compression="zstd")
    return file.getvalue()


def _from_parquet(
    content: bytes, wanted: Callable[[str], bool], where: Where
) -> dict[str, list[CellValue]]:
    from pyarrow import parquet

    names = parquet.read_schema(io.BytesIO(content)).names
    chosen = [name for name in names if wanted(name)]
    filters = [(name, "in", list(kept)) for name, kept in where.items()] or None
    return parquet.read_table(io.BytesIO(content), columns=chosen, filters=filters).to_pydict()
