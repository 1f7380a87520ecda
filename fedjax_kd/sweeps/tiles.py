"""Which points of a sweep run at once: rows of one seed, which share all data, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedjax_kd.engine.schedule import even_width


class Width(NamedTuple):
    """How many of each run at once."""

    configs: int  # H, with the same seed: the same clients, examples and batches
    seeds: int = 1  # S
    clients: int = 1  # of one point

    @property
    def lanes(self) -> int:
        """Local trainings at once."""
        return self.configs * self.seeds * self.clients


def halved_width(width: Width) -> Width:
    """About half as many local trainings at once; configurations, which share most, go last.

    Example:
      >>> halved_width(Width(configs=4, clients=3))
      Width(configs=4, seeds=1, clients=1)
    """
    if width.seeds > 1:
        return width._replace(seeds=width.seeds // 2)
    if width.clients > 1:
        return width._replace(clients=width.clients // 2)
    return width._replace(configs=width.configs // 2)


class Tile(NamedTuple):
    """Points that run at once: S seeds by H configurations, named by the points' numbers.

    Where too few are left to fill it, some stand in it twice; the first of them counts.
    """

    seeds: tuple[int, ...]
    points: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """``(S, H)``"""
        return len(self.points), len(self.points[0])


def tiles(rows: Mapping[int, Sequence[int]], width: Width, devices: int = 1) -> list[Tile]:
    """The fewest tiles of one shape, at most as wide as asked, that hold all points.

    Args:
      rows: the points of each seed.
      width: the widest that may be, on each device.
      devices: that divide a tile between them, by configurations or, if these are few, by seeds.

    Example:
      >>> tiles({7: [0, 1, 2], 8: [3, 5]}, Width(configs=2))
      [Tile(seeds=(7,), points=((0, 1),)), Tile(seeds=(7,), points=((2, 2),)),
       Tile(seeds=(8,), points=((3, 5),))]
    """
    rows = {seed: list(points) for seed, points in rows.items() if points}
    if not rows:
        return []
    longest = max(map(len, rows.values()))
    by_seeds = longest < devices <= len(rows)
    across = even_width(longest, width.configs * (1 if by_seeds else devices))
    across += 0 if by_seeds else -across % devices
    # Seeds side by side only where one tile holds all configurations.
    down = (
        even_width(len(rows), width.seeds * (devices if by_seeds else 1))
        if longest <= across
        else 1
    )
    down += -down % devices if by_seeds else 0
    return shaped(rows, (down, across))


def shaped(rows: Mapping[int, Sequence[int]], shape: tuple[int, int]) -> list[Tile]:
    """The fewest tiles of S seeds by H configurations that hold all points.

    Example:
      >>> shaped({7: [0, 1, 2]}, (1, 2))
      [Tile(seeds=(7,), points=((0, 1),)), Tile(seeds=(7,), points=((2, 2),))]
    """
    down, across = shape
    pieces = [
        (seed, _filled(points[first : first + across], across))
        for seed, points in rows.items()
        for first in range(0, len(points), across)
    ]
    groups = [pieces[first : first + down] for first in range(0, len(pieces), down)]
    whole = [[*group, *[group[-1]] * (down - len(group))] for group in groups]
    return [Tile(*map(tuple, zip(*group, strict=True))) for group in whole]


def _filled(points: Sequence[int], count: int) -> tuple[int, ...]:
    return (*points, *[points[-1]] * (count - len(points)))


def places(tile: Tile) -> Iterator[tuple[int, int, int]]:
    """Each point of a tile once: ``(row, column, point)``."""
    known: set[int] = set()
    for i, row in enumerate(tile.points):
        for j, point in enumerate(row):
            if point not in known:
                known.add(point)
                yield i, j, point
