"""Boxes and masks of parts that were found, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from knnspect import FoundPart
from knnspect.views import AlignedView, similarity


def part(angle: float, scale: float, at: tuple[float, float]) -> FoundPart:
    """A part of 4 x 10 pixels in an image of 40 x 60, of which the first column shows nothing."""
    way = similarity(angle, scale, at=(1.5, 4.5), to=at)
    view = AlignedView((40, 60), (4, 10), AlignedView((4, 10), (40, 60), way).inverse)
    pixels = np.ones((4, 10), bool)
    pixels[:, 0] = False
    return FoundPart("a.png", True, 0.8, 0.5, view, pixels)


def test_upright() -> None:
    found = part(0, 1, (11.5, 24.5))
    assert found.box == (10, 20, 14, 30)
    assert found.rotated_box == pytest.approx((11.5, 24.5, 4, 10, 0))
    expected = np.zeros((40, 60), bool)
    expected[10:14, 21:30] = True
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_allclose(found.matrix, [[1, 0, -10], [0, 1, -20]])


def test_turned_by_a_quarter_and_twice_as_large() -> None:
    found = part(90, 2, (19.5, 29.5))
    assert found.box == (10, 26, 30, 34)
    assert found.rotated_box == pytest.approx((19.5, 29.5, 8, 20, 90))
    assert (found.angle, found.scale) == pytest.approx((90, 2))
    # Counter-clockwise: what was on the left, and shows nothing, is below.
    rows, columns = np.nonzero(found.mask)
    assert (rows.min(), columns.min(), columns.max()) == (10, 26, 33)
    assert rows.max() in (27, 28)


def test_a_diagonal_box_lies_within_the_upright_one() -> None:
    found = part(45, 1, (20, 30))
    half = (4 + 10) / 2 / np.sqrt(2)
    assert found.box == (
        int(np.floor(20 - half + 0.5)),
        int(np.floor(30 - half + 0.5)),
        int(np.ceil(20 + half + 0.5)),
        int(np.ceil(30 + half + 0.5)),
    )
    assert found.share_inside == 1


def test_what_lies_outside_is_counted() -> None:
    # Four of nine columns lie left of the image.
    found = part(0, 1, (11.5, -0.5))
    assert found.box.left == -5
    assert found.share_inside == pytest.approx(5 / 9)
    assert int(found.mask.sum()) == 20
