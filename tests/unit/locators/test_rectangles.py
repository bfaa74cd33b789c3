"""Rectangles of least area and overlaps, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import ParameterError, ShapeError
from knnspect.locators import RotatedBox, mask_iou, rotated_box_of
from knnspect.locators.rectangles import hull_of


def turned(height: float, width: float, angle: float, side: int = 200) -> NDArray[np.bool_]:
    """A rectangle in the middle, by the positions along its axes that its pixels have."""
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    # A turn counter-clockwise takes "right" to (-sin, cos) and "down" to (cos, sin).
    down, right = rows * cos + columns * sin, -rows * sin + columns * cos
    found: NDArray[np.bool_] = (abs(down) <= height / 2) & (abs(right) <= width / 2)
    return found


def test_one_pixel() -> None:
    mask = np.zeros((5, 7), bool)
    mask[2, 6] = True
    assert rotated_box_of(mask) == (2, 6, 1, 1, 0)
    assert sorted(map(tuple, hull_of(mask).tolist())) == [
        (1.5, 5.5),
        (1.5, 6.5),
        (2.5, 5.5),
        (2.5, 6.5),
    ]


def test_a_staircase_has_a_diagonal_box() -> None:
    # Three pixels on a falling diagonal: corners from (-.5, -.5) to (2.5, 2.5); the box along it is
    # 3 roots of 2 long, and one root of 2 wide: its area is 6; that of the upright one is 9.
    box = rotated_box_of(np.eye(3, dtype=bool))
    assert box == pytest.approx((1, 1, 3 * 2**0.5, 2**0.5, 45)) or box == pytest.approx(
        (1, 1, 2**0.5, 3 * 2**0.5, -45)
    )
    assert box.height * box.width == pytest.approx(6)


@pytest.mark.parametrize("angle", [0.0, 12.0, 30.0, 45.0, 71.0, 120.0, -33.0])
def test_turned_rectangles_are_found(angle: float) -> None:
    box = rotated_box_of(turned(60, 110, angle), near=angle)
    assert (box.row, box.column) == pytest.approx((99.5, 99.5), abs=0.6)
    assert (box.height, box.width) == pytest.approx((60, 110), abs=2)
    assert abs((box.angle - angle + 180) % 360 - 180) < 1.5


def test_no_rectangle_is_smaller() -> None:
    mask = np.random.default_rng(0).random((20, 30)) > 0.99
    mask[3:9, 4:20] = True
    box = rotated_box_of(mask)
    corners = hull_of(mask)
    areas = []
    for angle in np.radians(np.arange(0, 90, 0.25)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        areas.append(np.prod(np.ptp(corners @ turn.T, axis=0)))
    assert box.height * box.width <= min(areas) + 1e-9
    assert box.height * box.width == pytest.approx(min(areas), rel=0.02)


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        (0.0, RotatedBox(3, 4, 3, 7, 0)),
        (100.0, RotatedBox(3, 4, 7, 3, 90)),
        (-170.0, RotatedBox(3, 4, 3, 7, -180)),
        (-80.0, RotatedBox(3, 4, 7, 3, -90)),
    ],
)
def test_its_angle_is_the_nearest(near: float, expected: RotatedBox) -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 1:8] = True
    assert rotated_box_of(mask, near) == pytest.approx(expected)


def test_an_empty_mask_has_none() -> None:
    with pytest.raises(ParameterError, match="expected one with pixels, all are 0"):
        rotated_box_of(np.zeros((3, 3), bool))


def test_overlap() -> None:
    one, other = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    one[:, :4], other[:, 2:] = True, True
    assert mask_iou(one, other) == 8 / 24
    assert mask_iou(one, one) == 1
    assert mask_iou(one, ~one) == 0
    with pytest.raises(ShapeError, match="two of one shape"):
        mask_iou(one, other.T)
