"""Pasted windows: what is known of them is what they show."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect.locators.part import Part
from knnspect.locators.siam_mask.geometry import (
    INPUT,
    LOCATIONS,
    factor_of,
    location_pixels,
    nearest_location,
)
from knnspect.locators.siam_mask.grounds import Grounds
from knnspect.locators.siam_mask.networks.training import targets_of
from knnspect.locators.siam_mask.pairs import BEYOND, Painter, Pasted

GREY = np.full((50, 60, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def painter() -> Painter:
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:20] = (250, 20, 20)
    pixels[20:] = (20, 20, 250)
    part = Part(pixels, np.ones((40, 20), bool))
    return Painter([part], Grounds([GREY], [GREY], INPUT), 1.5, 180, (0.8, 1.25))


def all_windows(painter: Painter, n: int) -> list[Pasted]:
    rng = np.random.default_rng(3)
    return [painter.paste(0, rng) for _ in range(n)]


def middle_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.argwhere(mask).mean(axis=0)
    return found


def test_a_mask_lies_where_the_part_is_said_to_be(painter: Painter) -> None:
    windows = [window for window in all_windows(painter, 40) if window.has_part]
    assert 20 < len(windows) < 40
    for window in windows:
        assert middle_of(window.mask) - BEYOND == pytest.approx(window.middle, abs=0.5)
        # 40 x 20 pixels, 1.5 times as large, at .8 to 1.25 times.
        assert 1800 * 0.8**2 * 0.97 < window.mask.sum() < 1800 * 1.25**2 * 1.03
        row, column, height, width = window.box()
        assert (row, column) == pytest.approx(window.middle, abs=1)
        assert height * width >= window.mask.sum() * 0.99


def test_it_is_turned_as_is_said(painter: Painter) -> None:
    n = 0
    for window in all_windows(painter, 60):
        shown = window.mask[BEYOND:-BEYOND, BEYOND:-BEYOND]
        if shown.sum() < 1800 * 0.8**2 * 0.97:
            continue
        image = window.pixels.astype(float)
        image[~shown] = 0
        red, blue = image[..., 0] - image[..., 2], image[..., 2] - image[..., 0]
        tops, bottoms = middle_of(red > 30), middle_of(blue > 30)
        down = bottoms - tops
        # A turn counter-clockwise takes "down", (1, 0), to (cos, sin).
        angle = np.degrees(np.arctan2(down[1], down[0]))
        off = (angle - window.angle + 180) % 360 - 180
        n += abs(off) < 8
    assert n >= 25


def test_targets_say_what_windows_show(painter: Painter) -> None:
    windows = all_windows(painter, 12)
    box = (60.0, 30.0)
    targets = targets_of(windows, box, np.random.default_rng(0))
    pixels = location_pixels()
    for number, window in enumerate(windows):
        labels = targets.labels[number].numpy()
        if not window.has_part:
            assert not labels.any()
            continue
        for i in range(LOCATIONS):
            for j in range(LOCATIONS):
                off = np.hypot(pixels[i] - window.middle[0], pixels[j] - window.middle[1])
                assert labels[i, j] == (1 if off <= 12 else -1 if off <= 24 else 0)
    for (number, i, j), of_box, turn in zip(
        targets.at.tolist(), targets.boxes.tolist(), targets.turns.tolist(), strict=True
    ):
        window = windows[number]
        row, column, height, width = window.box()
        assert pixels[i] + of_box[0] * box[0] == pytest.approx(row, abs=1e-4)
        assert pixels[j] + of_box[1] * box[1] == pytest.approx(column, abs=1e-4)
        assert np.exp(of_box[2:]) * box == pytest.approx((height, width), rel=1e-5)
        assert np.degrees(np.arctan2(turn[1], turn[0])) == pytest.approx(window.angle, abs=1e-3)
    for place, drawn in zip(targets.masks.tolist(), targets.drawn.numpy(), strict=True):
        number, i, j = targets.at[place].tolist()
        # The middle of the square is the location's pixel.
        row, column = int(pixels[i]) + BEYOND, int(pixels[j]) + BEYOND
        mask = windows[number].mask
        assert drawn.shape == (127, 127)
        np.testing.assert_array_equal(drawn, mask[row - 63 : row + 64, column - 63 : column + 64])


def test_a_part_that_is_larger_than_its_window_is_reduced_first() -> None:
    part = Part(np.full((400, 300, 3), 200, np.uint8), np.ones((400, 300), bool))
    factor = factor_of(part)
    painter = Painter([part], Grounds([GREY], [GREY], INPUT), factor, 0, (1, 1))
    window = next(each for each in all_windows(painter, 9) if each.has_part)
    assert window.mask.sum() == pytest.approx(400 * 300 * factor**2, rel=0.02)


def test_deep_pictures_are_pasted_as_well() -> None:
    part = Part(np.full((40, 40, 3), 0.8, np.float32), np.ones((40, 40), bool))
    painter = Painter([part], Grounds([GREY], [GREY], INPUT), 1.5, 10, (1, 1))
    window = next(each for each in all_windows(painter, 9) if each.has_part)
    assert window.pixels.dtype == np.uint8


def test_grounds_are_of_pictures_pieces_and_patterns() -> None:
    red, blue = np.zeros((2, 60, 80, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    rng = np.random.default_rng(0)
    grounds = Grounds([red], [blue], 64)
    drawn = [grounds.draw(rng) for _ in range(40)]
    assert {each.shape for each in drawn} == {(64, 64, 3)}
    of_picture = sum((each == (255, 0, 0)).all() for each in drawn)
    assert 15 < of_picture < 40
    pieces = [Grounds([], [blue], 64).draw(rng) for _ in range(40)]
    assert sum((each == (0, 0, 255)).all(axis=2).mean() > 0.2 for each in pieces) > 5


def test_a_template_takes_half_of_a_window() -> None:
    # A square: its window is twice as wide.
    part = Part(np.zeros((50, 50, 3), np.uint8), np.ones((50, 50), bool))
    assert factor_of(part) * 50 == pytest.approx(127 / 2)
    assert nearest_location(127) == 12
    assert [nearest_location(pixel) for pixel in (-5, 500)] == [0, 24]
