"""Points are laid out in tiles of one shape, each once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.sweeps.tiles import Width, places, shaped, tiles

quick = settings(max_examples=150, deadline=None)
ROWS = st.dictionaries(st.integers(0, 9), st.integers(0, 12), max_size=6)
WIDTHS = st.builds(Width, st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))


def numbered(lengths: dict[int, int]) -> dict[int, list[int]]:
    return {seed: [100 * seed + i for i in range(n)] for seed, n in lengths.items()}


@quick
@given(lengths=ROWS, width=WIDTHS, devices=st.integers(1, 4))
def test_every_point_has_one_place(lengths: dict[int, int], width: Width, devices: int):
    rows = numbered(lengths)
    laid = tiles(rows, width, devices)
    found = [(tile.seeds[i], point) for tile in laid for i, _, point in places(tile)]
    assert sorted(found) == sorted((s, p) for s, own in rows.items() for p in own)
    assert len({tile.shape for tile in laid}) <= 1
    for tile in laid:
        down, across = tile.shape
        assert len(tile.seeds) == down
        assert all(
            point in rows[s]
            for s, row in zip(tile.seeds, tile.points, strict=True)
            for point in row
        )
        assert across % devices == 0 or down % devices == 0
        if devices == 1:
            assert across <= width.configs
            assert down <= width.seeds


def test_widths_are_evened_out():
    assert {t.shape for t in tiles(numbered({0: 24}), Width(16))} == {(1, 12)}
    assert {t.shape for t in tiles(numbered({0: 4, 1: 4, 2: 4}), Width(8, 2))} == {(2, 4)}
    assert [t.shape for t in tiles(numbered(dict.fromkeys(range(8), 1)), Width(1), 4)] == [
        (4, 1),
        (4, 1),
    ]


def test_fewer_points_keep_the_shape():
    laid = shaped({0: [1, 5, 9]}, (1, 4))
    assert [t.points for t in laid] == [((1, 5, 9, 9),)]
    assert shaped({}, (1, 4)) == []
