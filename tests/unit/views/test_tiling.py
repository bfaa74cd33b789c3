"""Tiles cover an image, and each cell is taken from the tile in which it lies deepest."""

from __future__ import annotations

from itertools import pairwise

import pytest

from knnspect.errors import ParameterError
from knnspect.views.tiling import Span, check_tiles, tiles_of

#: Height and width, side of a tile, overlap, stride of the coarsest level.
CASES = [
    ((64, 64), 64, 16, 16),
    ((16, 80), 64, 16, 16),
    ((208, 512), 64, 16, 16),
    ((208, 512), 80, 32, 8),
    ((112, 336), 112, 0, 14),
    ((96, 100), 48, 20, 4),
    ((600, 36), 36, 16, 4),
]


def depth(middle: float, span: Span, size: int) -> float:
    """How far a place lies from the ends of a tile that are no ends of the image."""
    before = middle - span.start if span.start else float("inf")
    behind = span.stop - middle if span.stop < size else float("inf")
    return min(before, behind)


@pytest.mark.parametrize(("size", "tile", "overlap", "multiple"), CASES)
def test_tiles_cover_the_image_and_overlap_enough(
    size: tuple[int, int], tile: int, overlap: int, multiple: int
) -> None:
    tiles = tiles_of(size, tile, overlap, multiple)
    for side, of_tiles in zip(size, zip(*tiles, strict=True), strict=True):
        spans = sorted(set(of_tiles))
        assert (spans[0].start, spans[-1].stop) == (0, side)
        assert {span.stop - span.start for span in spans} == {min(tile, side)}
        assert all(span.start % multiple == 0 for span in spans)
        assert all(one.stop - other.start >= overlap for one, other in pairwise(spans))
        # No fewer tiles would do.
        n_less = len(spans) - 1
        assert n_less == 0 or n_less * tile - (n_less - 1) * overlap < side
    assert sum(tile.share for tile in tiles) == 4 * size[0] * size[1]


@pytest.mark.parametrize(("size", "tile", "overlap", "multiple"), CASES)
def test_each_cell_is_taken_once_from_where_it_lies_deepest(
    size: tuple[int, int], tile: int, overlap: int, multiple: int
) -> None:
    tiles = tiles_of(size, tile, overlap, multiple)
    for stride in (multiple, multiple // 2):
        for side, spans in zip(size, zip(*tiles, strict=True), strict=True):
            owners: dict[int, Span] = {}
            for span in sorted(set(spans)):
                cells = span.cells(stride)
                for cell in range(cells.start, cells.stop):
                    assert cell not in owners
                    owners[cell] = span
            assert sorted(owners) == list(range(side // stride))
            for cell, owner in owners.items():
                middle = (cell + 0.5) * stride
                assert depth(middle, owner, side) == max(depth(middle, s, side) for s in spans)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (500, 64, "tile: expected a multiple of 16, .*got 500; the nearest are 496 and 512"),
        (8, 0, "tile: expected a multiple of 16, .*got 8; the nearest is 16"),
        (512, 60, "overlap: expected a multiple of 16, .*got 60; the nearest are 48 and 64"),
        (512, 256, "overlap: expected less than half of the tile, 256 pixels, got 256"),
        (48, 32, "overlap: expected less than half of the tile, 24 pixels, got 32"),
    ],
)
def test_other_tiles_are_refused(tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_tiles(tile, overlap, 16)
