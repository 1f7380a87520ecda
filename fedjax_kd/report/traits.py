"""What the clients of a study have found out about themselves, by round and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedjax_kd.metrics import TRAIT
from fedjax_kd.report import bands, formatting
from fedjax_kd.report.bands import Seeds
from fedjax_kd.report.estimates import Estimate, number
from fedjax_kd.report.sections import Table
from fedjax_kd.report.table_files import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEAN, _STD, _SHARE = "_mean", "_std", "_share"
_DRAWN = "mean or share of clients"


class _Trait(NamedTuple):
    """A number that clients have, in the rows of every seed of one method."""

    method: str
    column: str  # of its mean, or of the share of clients
    seeds: Seeds

    @property
    def name(self) -> str:
        """In words."""
        own = self.column.removeprefix(TRAIT)
        if own.endswith(_SHARE):
            return f"clients in {own.removesuffix(_SHARE).replace('_', ' ')}"
        return own.removesuffix(_MEAN).replace("_", " ")

    def at(self, place: int, column: str | None = None) -> str:
        """The first (0) or last (-1) value, over seeds."""
        column = self.column if column is None else column
        known = [
            [number(r[column]) for r in rows if r.get(column) is not None] for rows in self.seeds
        ]
        found = Estimate(tuple(values[place] for values in known if values))
        return formatting.spread(found, column) if found.seeds else formatting.NOTHING


def _traits(lines: Mapping[str, Seeds]) -> Iterator[_Trait]:
    for method, seeds in lines.items():
        # A table of several methods has empty cells for what only others tell.
        known = (row.items() for rows in seeds for row in rows)
        columns = dict.fromkeys(name for row in known for name, cell in row if cell is not None)
        for column in columns:
            if column.startswith(TRAIT) and column.endswith((_MEAN, _SHARE)):
                yield _Trait(method, column, seeds)


def traits_table(lines: Mapping[str, Seeds], by: str) -> Table | None:
    """What clients tell of themselves, at the first evaluation and the last; None if nothing.

    Args:
      lines: the rows of each seed, by method or run.
      by: the head of their column.
    """
    rows = [
        [t.method, t.name, t.at(0), t.at(-1), t.at(-1, f"{t.column.removesuffix(_MEAN)}{_STD}")]
        for t in _traits(lines)
    ]
    head = [by, "trait", "at first", "at the end", "deviation between clients"]
    note = (
        "Means over clients, or shares of clients that chose it; ± over seeds. A row a client is "
        "in clients.csv, which `fedjax-kd evaluate` writes."
    )
    return Table("What clients found out about themselves", head, rows, note, 2) if rows else None


def draw_traits(lines: Mapping[str, Seeds], size: tuple[float, float]) -> Figure:
    """Means and shares of `traits_table` by round, a line each."""
    return bands.draw_curves(
        {
            f"{t.method}: {t.name}": [_drawn(rows, t.column) for rows in t.seeds]
            for t in _traits(lines)
        },
        [_DRAWN],
        untrained=True,
        size=size,
    )


def _drawn(rows: Sequence[Record], column: str) -> list[Record]:
    return [{"round": row["round"], _DRAWN: row.get(column)} for row in rows]
