"""What a decision draws on an overlay: what is tinted, outlined, numbered and written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from knnspect.calibration import Calibration
from knnspect.data.geometry import strips
from knnspect.detectors import Prediction
from knnspect.report import overlay
from knnspect.report.colors import ALARM, EDGE, INK, OUTLINE, PLAQUE
from knnspect.report.marks import Marks
from knnspect.report.overlay import overlay_strips
from knnspect.views import Box

Pixels = npt.NDArray[Any]


def prediction(map_: Pixels, score: float | None = None) -> Prediction:
    """Return a prediction whose pixels are anomalous above 1, as is its score."""
    normal = np.linspace(0.5, 1, 20)
    return Prediction(
        "a.png",
        float(map_.max()) if score is None else score,
        map_.astype(np.float32),
        calibration=Calibration(normal, normal),
        false_alarm_rate=0.05,
    )


def map_with(size: tuple[int, int], *boxes: Box) -> Pixels:
    """Return a map that is 0.9 but for boxes, of which each is weaker than the one before."""
    map_ = np.full(size, 0.9, np.float32)
    for place, box in enumerate(boxes):
        map_[box.top : box.bottom, box.left : box.right] = 3 - place / 10
    return map_


def drawn(map_: Pixels, level: int = 128, score: float | None = None) -> Pixels:
    return overlay(
        np.full(map_.shape, level, np.uint8), map_, 1.5, Marks.of(prediction(map_, score))
    )


def n_of(picture: Pixels, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def test_without_a_calibration_there_are_no_marks() -> None:
    assert Marks.of(Prediction("a.png", 1.0, np.ones((3, 3), np.float32))) is None


@pytest.mark.parametrize("level", [0, 128, 255])
def test_up_to_the_threshold_nothing_is_tinted(level: int) -> None:
    box = Box(30, 40, 40, 55)
    map_ = map_with((64, 90), box)  # too small for texts
    map_[50, 10] = 1  # the threshold itself
    picture = drawn(map_, level)
    inside = np.zeros(map_.shape, bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    near = np.zeros(map_.shape, bool)
    near[box.top - 2 : box.bottom + 2, box.left - 2 : box.right + 2] = True
    assert (picture[~near] == level).all()
    assert (np.ptp(picture[inside].astype(int), axis=1) > 20).all()
    ring = near.copy()
    ring[box.top - 1 : box.bottom + 1, box.left - 1 : box.right + 1] = False
    assert (picture[ring] == EDGE).all()
    assert (picture[near & ~ring & ~inside] == OUTLINE).all()


def test_a_single_pixel_is_outlined_and_stays_to_be_seen() -> None:
    map_ = map_with((20, 20), Box(0, 0, 1, 1))
    picture = drawn(map_)
    assert np.ptp(picture[0, 0].astype(int)) > 20
    assert [tuple(picture[place]) for place in ((0, 1), (1, 1), (0, 2))] == [OUTLINE, OUTLINE, EDGE]


@pytest.mark.parametrize(("score", "color", "other"), [(2.0, ALARM, PLAQUE), (0.7, PLAQUE, ALARM)])
@pytest.mark.parametrize("level", [0, 255])
def test_the_verdict_stands_in_a_corner(
    score: float, color: tuple[int, int, int], other: tuple[int, int, int], level: int
) -> None:
    picture = drawn(map_with((200, 300)), level, score)
    assert n_of(picture[:40, :200], color) > 500
    plaque = picture[:12, :80].astype(int)
    assert (np.abs(plaque - INK).sum(axis=2) < 150).sum() > 30
    assert n_of(picture, other) == 0
    assert (picture[40:] == level).all()


def test_the_verdict_takes_the_corner_without_a_find() -> None:
    size = (200, 300)
    top_left, top_right = Box(0, 0, 20, 30), Box(0, 260, 20, 300)
    picture = drawn(map_with(size, top_left, top_right))
    assert n_of(picture[-40:, :200], ALARM) > 500
    assert n_of(picture[:100], ALARM) == 0


def test_regions_are_numbered_beside_them_and_no_number_hides_another() -> None:
    boxes = (Box(60, 60, 80, 90), Box(62, 91, 70, 110), Box(120, 200, 121, 201))
    map_ = map_with((200, 300), *boxes)
    map_[62:70, 90:91] = 0.9
    marks = Marks.of(prediction(map_))
    assert marks is not None
    verdict, *numbers = marks.plaques(map_)
    assert len(numbers) == len(boxes)
    covered = np.zeros(map_.shape, int)
    for plaque in (verdict, *numbers):
        covered[plaque.box.top : plaque.box.bottom, plaque.box.left : plaque.box.right] += 1
    assert covered.max() == 1
    assert not covered[map_ > 1].any()
    for plaque, box in zip(numbers, boxes, strict=True):
        across = max(plaque.box.top - box.bottom, box.top - plaque.box.bottom)
        along = max(plaque.box.left - box.right, box.left - plaque.box.right)
        assert max(across, along) <= 3


def test_a_region_that_fills_the_image_has_a_number_too() -> None:
    map_ = map_with((200, 300), Box(0, 0, 200, 300))
    marks = Marks.of(prediction(map_))
    assert marks is not None
    assert len(marks.plaques(map_)) == 2


@pytest.mark.parametrize("size", [(1, 1), (95, 400), (400, 20)])
def test_small_images_have_no_text(size: tuple[int, int]) -> None:
    picture = drawn(map_with(size, Box(0, 0, 1, 1)))
    assert picture.shape == (*size, 3)
    assert n_of(picture, ALARM) == n_of(picture, INK) == 0


def test_thousands_of_regions_have_a_limited_number_of_numbers() -> None:
    map_ = map_with((200, 200))
    map_[::4, ::4] = 2
    marks = Marks.of(prediction(map_))
    assert marks is not None
    assert len(marks.boxes) == 2500
    assert 2 < len(marks.plaques(map_)) <= 100


def test_strips_make_the_same_picture_as_the_whole() -> None:
    size = (1300, 1000)  # two strips, the second from row 1048 on
    first = next(iter(strips(size))).stop
    map_ = map_with(
        size, Box(first - 30, 100, first + 9, 160), Box(first - 12, 600, first - 1, 640)
    )
    image = np.full(size, 90, np.uint8)
    marks = Marks.of(prediction(map_))
    assert marks is not None
    parts = list(overlay_strips(image, map_, 1.5, marks))
    assert len(parts) == 2
    quiet = np.where(map_ > 1, map_, 0)
    expected = overlay(image, quiet, 1.5)
    marks.draw(expected, slice(0, size[0]), map_, marks.plaques(map_))
    picture = np.concatenate([strip for _, strip in parts])
    changed = (picture != 90).any(axis=2)
    outlined = (expected != 90).any(axis=2)
    np.testing.assert_array_equal(changed, outlined)
    lines = ((expected == OUTLINE) | (expected == EDGE)).all(axis=2)
    np.testing.assert_array_equal(picture[lines], expected[lines])
