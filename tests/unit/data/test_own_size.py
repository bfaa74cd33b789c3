"""Images at their own size: no pixel is resampled, and maps come back pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from knnspect.data.geometry import Geometry
from knnspect.data.own_size import OwnPixels, OwnSize, geometry_of, in_windows
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError
from knnspect.views import Placement

RNG = np.random.default_rng(0)
SIZES = [(16, 32), (17, 31), (1, 70), (48, 47)]


def image_of(size: tuple[int, int], kind: str) -> Any:
    if kind == "uint8":
        return RNG.integers(0, 256, (*size, 3), np.uint8)
    if kind == "grey":  # three times the same memory, as a reader gives it
        return np.broadcast_to(RNG.integers(0, 256, (*size, 1), np.uint8), (*size, 3))
    return RNG.random((*size, 3), np.float32)


@pytest.mark.parametrize("kind", ["uint8", "grey", "float32"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_stay_what_they_are_and_the_outermost_are_repeated(
    size: tuple[int, int], kind: str
) -> None:
    image, geometry = image_of(size, kind), OwnSize((224, 224), multiple=16)
    prepared = geometry.prepare(image)
    lacking = [-side % 16 for side in size]
    beyond = [(n // 2, n - n // 2) for n in lacking]
    values = image.astype(np.float32) / (1 if kind == "float32" else 255)
    expected = np.pad(values, [*beyond, (0, 0)], mode="edge").transpose(2, 0, 1)
    assert prepared.shape[1:] == geometry.input_size(size)
    np.testing.assert_array_equal(prepared, expected)
    pixels = in_windows(image, geometry)
    assert isinstance(pixels, OwnPixels)
    assert pixels.shape == prepared.shape
    for rows, columns in ((slice(0, 7), slice(5, 16)), (slice(9, 16), slice(15, 32))):
        found = pixels.window(rows, columns)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, prepared[:, rows, columns])


@pytest.mark.parametrize("size", SIZES)
def test_maps_come_back_pixel_for_pixel(size: tuple[int, int]) -> None:
    placement = Placement(size, OwnSize((224, 224), multiple=16))
    map_ = RNG.random(placement.input_size, np.float32)
    top, left = (-size[0] % 16 // 2, -size[1] % 16 // 2)
    found = placement.to_image(map_)
    np.testing.assert_array_equal(found, map_[top : top + size[0], left : left + size[1]])
    grid = (placement.input_size[0] // 8, placement.input_size[1] // 8)
    for row, column in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)):
        cell = placement.cell_at(row, column, grid)
        assert cell == ((row + top) // 8, (column + left) // 8)
        box = placement.box_of(cell, grid)
        assert box.top <= row < box.bottom
        assert box.left <= column < box.right


def test_other_geometries_are_prepared_as_ever() -> None:
    image, geometry = image_of((20, 30), "uint8"), Geometry((16, 16))
    np.testing.assert_array_equal(in_windows(image, geometry), geometry.prepare(image))
    assert geometry_of((16, 16), "pad", "bicubic") == Geometry((16, 16), "pad")
    assert geometry_of((16, 16), "own", "bicubic", 4) == OwnSize((16, 16), multiple=4)


def test_what_cannot_be_is_refused() -> None:
    geometry = OwnSize((224, 224), multiple=16)
    with pytest.raises(ShapeError, match=r"expected an image of shape \(height, width, 3\)"):
        geometry.prepare(np.zeros((4, 4), np.uint8))
    with pytest.raises(DTypeError, match="expected uint8 or float32, got float64"):
        geometry.prepare(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="of 20000 x 20000 pixels it is too large"):
        geometry.input_size((20_000, 20_000))
    with pytest.raises(ParameterError, match=r"resize: expected one of \('own',\), got 'pad'"):
        OwnSize((224, 224), "pad")  # type: ignore[arg-type]
