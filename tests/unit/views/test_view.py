"""Views of an image: known transforms there and back, alone and one within another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import ParameterError, ShapeError
from knnspect.data import Geometry
from knnspect.views import AlignedView, Box, CutView, PlacedView, Placement, View, similarity

SIZE = (120, 160)


def turned(size: tuple[int, int], frame: tuple[int, int], angle: float, scale: float) -> View:
    middle = (frame[0] - 1) / 2, (frame[1] - 1) / 2
    at = size[0] * 0.55, size[1] * 0.45
    return AlignedView(size, frame, similarity(angle, scale, at=at, to=middle))


CUT = CutView(SIZE, Box(17, 40, 97, 130))
TURNED = turned(SIZE, (64, 72), 37, 1.1)
#: Views by what they do, outermost first.
CHAINS: dict[str, list[View]] = {
    "cut": [CUT],
    "turned": [TURNED],
    "cut of turned": [TURNED, CutView((64, 72), Box(8, 10, 58, 66))],
    "turned in cut": [CUT, turned(CUT.frame, (50, 48), -110, 0.9)],
    "turned twice": [TURNED, turned((64, 72), (40, 44), 74, 1.2)],
    "cut of cut": [CUT, CutView(CUT.frame, Box(5, 7, 61, 77))],
}
GEOMETRIES = [
    Geometry((96, 96)),
    Geometry((96, 64), resize="crop"),
    Geometry((80, 96), resize="pad"),
]


def placed(views: list[View], geometry: Geometry) -> Placement:
    found = Placement(views[-1].frame, geometry)
    for view in reversed(views):
        found = PlacedView.of(found, view)
    return found


@pytest.fixture(params=list(CHAINS))
def views(request: pytest.FixtureRequest) -> list[View]:
    return CHAINS[request.param]


def test_positions_come_back_to_a_tenth_of_a_pixel(views: list[View]) -> None:
    random = np.random.default_rng(0)
    rows, columns = random.uniform(-20, 180, (2, 50))
    there = (rows, columns)
    for view in views:
        there = view.to_frame(*there)
    for view in reversed(views):
        there = view.to_original(*there)
    np.testing.assert_allclose(there, (rows, columns), atol=0.1)
    np.testing.assert_allclose(there, (rows, columns), atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda each: each.resize)
def test_middles_of_cells_lie_in_their_cells(views: list[View], geometry: Geometry) -> None:
    grid = (6, 8)
    placement = placed(views, geometry)
    rows, columns = placement.middles(grid)
    found = placement.cells_at(rows, columns, grid)
    expected = np.indices(grid)
    counts = ~np.isnan(rows + columns)
    assert counts.any()
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got[counts], want[counts])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda each: each.resize)
def test_the_box_of_a_cell_holds_its_middle(views: list[View], geometry: Geometry) -> None:
    grid = (6, 8)
    placement = placed(views, geometry)
    rows, columns = placement.middles(grid)
    for row, column in np.argwhere(~np.isnan(rows + columns)):
        at = rows[row, column], columns[row, column]
        if not (0 <= at[0] <= SIZE[0] - 1 and 0 <= at[1] <= SIZE[1] - 1):
            continue
        box = placement.box_of((int(row), int(column)), grid)
        assert box.top - 0.6 <= at[0] <= box.bottom - 0.4
        assert box.left - 0.6 <= at[1] <= box.right - 0.4
        pixel = round(float(at[0])), round(float(at[1]))
        cell = placement.cell_at(*pixel, grid)  # a pixel may lie beside the middle
        assert max(abs(cell[0] - row), abs(cell[1] - column)) <= 1


def blob(size: tuple[int, int], at: tuple[float, float]) -> NDArray[np.float32]:
    rows, columns = np.indices(size)
    distance = (rows - at[0]) ** 2 + (columns - at[1]) ** 2
    return np.exp(-distance / (2 * 4.0**2)).astype(np.float32)


def test_a_map_comes_back_to_a_tenth_of_a_pixel(views: list[View]) -> None:
    """The centre of gravity of a blob in the frame is where it lies in the image."""
    frame = views[-1].frame
    at = (frame[0] * 0.5, frame[1] * 0.5)
    map_, where = blob(frame, at), at
    for view in reversed(views):
        map_, where = view.to_image(map_), view.to_original(*where)
    assert map_.shape == SIZE
    found = [float((map_ * index).sum() / map_.sum()) for index in np.indices(SIZE)]
    np.testing.assert_allclose(found, where, atol=0.1)


def test_a_map_of_the_network_comes_back_through_all_views(views: list[View]) -> None:
    placement = placed(views, Geometry((96, 96)))
    inside = blob((96, 96), (47.5, 47.5))
    map_ = placement.to_image(inside)
    frame = views[-1].frame
    where = (frame[0] - 1) / 2, (frame[1] - 1) / 2
    for view in reversed(views):
        where = view.to_original(*where)
    found = [float((map_ * index).sum() / map_.sum()) for index in np.indices(SIZE)]
    np.testing.assert_allclose(found, where, atol=0.1)


def test_what_lies_beside_the_frame_has_the_value_that_is_given() -> None:
    for view in (CUT, TURNED):
        map_ = view.to_image(np.ones(view.frame), outside=-2.0)
        assert map_[0, 0] == map_[-1, -1] == -2
        assert map_.max() == 1


def test_a_cut_is_the_pixels_of_its_box() -> None:
    image = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), np.uint8)
    np.testing.assert_array_equal(CUT.cut(image), image[17:97, 40:130])


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 121, 5), (0, 9, 5, 8)])
def test_a_box_outside_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ParameterError, match="expected one within 120 x 160 pixels"):
        CutView(SIZE, Box(*box))


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected 120 x 160 pixels"):
        CUT.cut(np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ShapeError, match="expected shape"):
        CUT.to_image(np.zeros((5, 5)))
