"""Regions: which cells of images count, whatever way the images met the network."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knnspect.data import Geometry
from knnspect.errors import DTypeError, ImageError, ImageWarning, ParameterError, ShapeError
from knnspect.views import Placement, Region, Variant
from knnspect.views.constraints import IsMask

GRID = (4, 6)


def stretched(height: int, width: int) -> Placement:
    return Placement((height, width), Geometry((64, 96)))


def left(share: float, height: int = 40, width: int = 60) -> Region:
    pixels = np.zeros((height, width), bool)
    pixels[:, : round(share * width)] = True
    return Region(pixels)


@pytest.mark.parametrize(("n_rows", "counts"), [(4, False), (5, True), (6, True)])
def test_a_cell_counts_if_half_of_its_pixels_do(n_rows: int, counts: bool) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10 : 10 + n_rows, 20:30] = 1  # a cell has ten rows and ten columns
    pixels[0, 0] = 255
    expected = np.zeros(GRID, bool)
    expected[1, 2] = counts
    np.testing.assert_array_equal(Region(pixels).cells(stretched(40, 60), GRID), expected)


def test_images_of_its_proportions_may_have_another_size() -> None:
    region = left(0.5)
    expected = region.cells(stretched(40, 60), GRID)
    assert expected[:, :3].all()
    assert not expected[:, 3:].any()
    for size in ((400, 600), (20, 30), (2, 3)):
        np.testing.assert_array_equal(region.cells(stretched(*size), GRID), expected)
    for size in ((60, 40), (40, 61), (401, 600)):
        with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels.*has 40 x 60: expect"):
            region.cells(stretched(*size), GRID)


def test_what_is_cut_off_and_what_is_added_are_not_mistaken_for_the_image() -> None:
    # The middle 40 columns of 60 are seen, of which the region has the first 20.
    cropped = left(0.5).cells(Placement((40, 60), Geometry((64, 64), "crop")), (4, 4))
    np.testing.assert_array_equal(cropped, [[True, True, False, False]] * 4)
    # Two rows of cells above the image and two below show padding.
    padded = left(0.5, 30, 60).cells(Placement((30, 60), Geometry((64, 64), "pad")), (8, 8))
    np.testing.assert_array_equal(padded, [[True] * 4 + [False] * 4] * 8)
    shorter = Placement((400, 600), Geometry((64, 64), "shorter", multiple=16))
    np.testing.assert_array_equal(left(0.5).cells(shorter, GRID)[:, :4], [[True] * 3 + [False]] * 4)


def test_a_mask_of_all_pixels_hides_no_cell() -> None:
    for resize in ("stretch", "crop", "pad"):
        placement = Placement((7, 300), Geometry((64, 64), resize))
        assert Region(np.ones((7, 300), bool)).cells(placement, (16, 16)).all()


def test_it_turns_with_the_image() -> None:
    region, placement = left(0.5, 40, 40), Placement((40, 40), Geometry((64, 64)))
    half = np.zeros((4, 4), bool)
    half[:, :2] = True
    for variant in (Variant(), Variant(brightness=0.3)):
        np.testing.assert_array_equal(region.cells(placement, (4, 4), variant), half)
    turned = region.cells(placement, (4, 4), Variant(90.0))
    np.testing.assert_array_equal(turned, np.rot90(half))
    mirrored = region.cells(placement, (4, 4), Variant(is_mirrored=True, brightness=0.3))
    np.testing.assert_array_equal(mirrored, half[:, ::-1])


def test_in_a_file_counts_what_is_neither_black_nor_transparent(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0] = (0, 0, 1, 255)
    pixels[0, 1] = (255, 255, 255, 0)
    pixels[1, 2] = (200, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.warns(ImageWarning, match=r"mask\.png: 1 pixels of this mask are nearly black"):
        region = Region.of(tmp_path / "mask.png")
    assert region.pixels.tolist() == [[True, False, False], [False, False, True]]
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / "ones.png")
    assert Region.of(tmp_path / "ones.png") == Region(np.eye(3, dtype=bool))
    Image.new("L", (3, 2)).save(tmp_path / "black.png")
    with pytest.raises(ParameterError, match=r"black\.png.* 2 x 3 are 0: it hides everything"):
        Region.of(tmp_path / "black.png")


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((2, 2)), DTypeError, "expected an array of bool or uint8, got float64"),
        ([[True]], DTypeError, "expected an array of bool or uint8, got list"),
        (np.ones((2, 2, 3), bool), ShapeError, r"\(height, width\), got \(2, 2, 3\)"),
        (np.ones((0, 2), bool), ShapeError, r"\(height, width\), got \(0, 2\)"),
        (np.zeros((2, 3), bool), ParameterError, "all 2 x 3 are 0: it hides everything"),
        ("gone.png", ImageError, r"gone\.png"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Region.of(mask)
    with pytest.raises((DTypeError, ParameterError, ShapeError), match=r"^mask: expected"):
        IsMask().check("mask", mask)


def test_equal_pixels_are_equal_regions_wherever_they_came_from() -> None:
    pixels = np.eye(5, 7, dtype=np.uint8)
    region = Region(pixels)
    same = [
        Region(pixels * 255),
        copy.deepcopy(region),
        pickle.loads(pickle.dumps(region)),
        Region.from_json(region.to_json()),
        IsMask().kept(region),
    ]
    assert all(other == region and hash(other) == hash(region) for other in same)
    pixels[0, 0] = 0
    assert Region(pixels) != region
    assert Region(np.ones((2, 3), bool)) != Region(np.ones((3, 2), bool))
    assert region != "pca"
    assert repr(region) == "Region(height=5, width=7, share=0.143)"
    with pytest.raises(ValueError, match="read-only"):
        same[2].pixels[0, 0] = False


def test_a_drawn_mask_takes_little_room_in_a_file() -> None:
    rows, columns = np.mgrid[:3000, :4000]
    disc = Region(np.hypot(rows - 1500, columns - 2000) < 1200)
    saved = disc.to_json()
    assert len(saved["bits"]) < 20_000
    assert Region.from_json(saved) == disc


@pytest.mark.parametrize(
    "change",
    [
        {"height": 10**9},
        {"height": 10**30},
        {"height": -1},
        {"width": 8},
        {"width": "7"},
        {"bits": "no base64!"},
        {"bits": "AAAA"},
        {"bits": 5},
        {"more": 1},
    ],
)
def test_a_mask_that_was_forged_is_refused(change: dict[str, Any]) -> None:
    saved = Region(np.eye(16, 7, dtype=bool)).to_json()
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Region.from_json({**saved, **change})
    with pytest.raises(ValueError, match="expected the height, width and bits"):
        Region.from_json("mask.png")  # type: ignore[arg-type]
