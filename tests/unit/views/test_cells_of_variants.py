"""Variants of a judged image: which of their cells show which of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect.data import Geometry
from knnspect.errors import ImageError
from knnspect.views import Box, Placement, Variant, Variants
from knnspect.views.query_variants import ChosenVariants, QueryViews, cells_of_variant

GRID = (6, 4)
QUARTERS = [Variant(90.0 * n, is_mirrored) for n in range(4) for is_mirrored in (False, True)]


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("variant", [*QUARTERS, Variant(45.0), Variant(200.0, True)], ids=repr)
def test_cells_are_found_again_where_a_picture_of_positions_has_them(
    variant: Variant, resize: Any
) -> None:
    """For images that are taller and wider than the network's input."""
    n_shown = n_hidden = 0
    for size in ((97, 63), (60, 90)):
        placement = Placement(size, Geometry((48, 32), resize))
        rows, columns = cells_of_variant(variant, placement, GRID)
        positions = _positions_in(variant, size)
        seen = [~np.isnan(of_axis) for of_axis in placement.geometry.positions(size)]
        positions[~(seen[0][:, None] & seen[1])] = np.inf
        middles = placement.middles(GRID)
        for cell in product(range(GRID[0]), range(GRID[1])):
            middle = np.array([middles[0][cell[0]], middles[1][cell[1]]])
            there = (int(rows[cell]), int(columns[cell]))
            if np.isnan(middle).any():
                assert there == (-1, -1), "a cell that the image was padded with"
                continue
            assert placement.cell_at(round(middle[0]), round(middle[1]), GRID) == cell
            off = np.abs(positions - middle).max(axis=-1)
            if there == (-1, -1):
                n_hidden += 1
                assert off.min() > 0.2, "the variant does not show it"
                continue
            n_shown += 1
            box = placement.box_of(there, GRID)
            assert off[box.top : box.bottom, box.left : box.right].min() < 1.5
    assert n_shown > n_hidden
    assert n_hidden > 0 or variant.angle % 180 == 0


def _positions_in(variant: Variant, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return which position of an image each pixel of its variant shows; infinity for none."""
    height, width = size
    image = np.zeros((3 * height, 3 * width, 3), np.float32)  # so that nothing is reflected
    inside = image[height : 2 * height, width : 2 * width]
    inside[..., :2] = np.moveaxis(np.indices(size), 0, -1) / 128
    inside[..., 2] = 1
    shown = variant.of(image)[height : 2 * height, width : 2 * width]
    positions: NDArray[np.float64] = shown[..., :2].astype(np.float64) * 128
    positions[shown[..., 2] < 0.999] = np.inf
    return positions


def test_quarter_turns_of_squares_and_mirrors_move_cells_and_hide_none() -> None:
    cells = np.arange(36).reshape(6, 6)
    placement = Placement((96, 96), Geometry((48, 48)))
    for variant in QUARTERS:
        rows, columns = cells_of_variant(variant, placement, (6, 6))
        of_variant = np.rot90(
            cells[:, ::-1] if variant.is_mirrored else cells, int(variant.angle) // 90
        )
        np.testing.assert_array_equal(of_variant[rows, columns], cells)


def test_corners_are_not_shown_by_a_turn_of_45_degrees() -> None:
    rows, columns = cells_of_variant(Variant(45.0), Placement((96, 96), Geometry((48, 48))), (8, 8))
    is_hidden = rows < 0
    np.testing.assert_array_equal(is_hidden, columns < 0)
    np.testing.assert_array_equal(is_hidden, is_hidden[::-1])
    np.testing.assert_array_equal(is_hidden, is_hidden.T)
    assert is_hidden[0, 0]
    assert is_hidden[0].sum() == 4
    assert not is_hidden[2:6, 2:6].any()


def test_the_box_of_a_cell_holds_its_middle_in_the_image_as_it_came() -> None:
    variants = Variants(8, mirror=True)
    for size, resize in (((97, 63), "stretch"), ((64, 96), "crop"), ((64, 96), "pad")):
        placement = Placement(size, Geometry((48, 32), resize))  # type: ignore[arg-type]
        middles = placement.middles(GRID)
        for place, variant in enumerate(variants.each):
            chosen = ChosenVariants(variants, np.full(GRID, place, np.intp))
            rows, _ = cells_of_variant(variant, placement, GRID)
            assert chosen.at((0, 0)) == variant
            for cell in zip(*np.nonzero(rows >= 0), strict=True):
                box = chosen.box_of((int(cell[0]), int(cell[1])), placement)
                assert box.top - 1 <= middles[0][cell[0]] <= box.bottom
                assert box.left - 1 <= middles[1][cell[1]] <= box.right
                assert 0 <= box.top < box.bottom <= size[0]
                assert 0 <= box.left < box.right <= size[1]


def test_boxes_of_what_does_not_move_are_those_of_the_image() -> None:
    placement = Placement((97, 63), Geometry((48, 32)))
    chosen = ChosenVariants(Variants(1, (0.5,)), np.ones(GRID, np.intp))
    assert chosen.box_of((5, 0), placement) == placement.box_of((5, 0), GRID) == Box(81, 0, 97, 16)


def test_views_are_all_variants_under_any_id() -> None:
    image: Any = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    variants, geometry = Variants(2, mirror=True), Geometry((16, 16))
    views = QueryViews(variants)
    assert len(views) == 4
    prepared = views.prepare("a [rotated 180]", image, geometry)
    assert [id_ for id_, _ in prepared][:2] == ["a [rotated 180]", "a [rotated 180] [rotated 180]"]
    for (_, array), variant in zip(prepared, variants.each, strict=True):
        np.testing.assert_array_equal(array, geometry.prepare(variant.of(image).copy()))
    with pytest.raises(ImageError, match=r"^image long: .* use it without rotations"):
        QueryViews(Variants(8)).prepare("long", np.zeros((2, 30_000, 3), np.uint8), geometry)
