"""A face that moves is followed, and found again once it was lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from faces import the_faces, trained_locator
from numpy.typing import NDArray

from knnspect import ImageError, ImageWarning, NotFittedError, ParameterError, SiamMask
from knnspect.locators import mask_iou

Frame = NDArray[np.uint8]


def sequence(n: int = 8) -> list[tuple[Frame, NDArray[np.bool_], tuple[float, float]]]:
    found = []
    for step in range(n):
        at = (60.0 + 4 * step, 60.0 + 7 * step)
        found.append((*the_faces().pasted("grass", 4 * step - 20, 1.0, at), at))
    return found


def off(part: object, at: tuple[float, float]) -> float:
    row, column = part.view.to_original(21.5, 17.5)  # type: ignore[attr-defined]
    return float(np.hypot(row - at[0], column - at[1]))


def test_a_part_is_followed() -> None:
    frames, masks, places = zip(*sequence(), strict=True)
    followed = list(trained_locator().track(list(frames)))
    assert [part.image_id for part in followed] == [f"{n:06d}" for n in range(8)]
    assert all(off(part, at) < 6 for part, at in zip(followed, places, strict=True))
    overlaps = [mask_iou(p.mask, mask) for p, mask in zip(followed, masks, strict=True)]
    assert np.mean(overlaps) > 0.5


def test_the_first_frame_and_a_lost_part_are_searched_for_anew() -> None:
    locator = trained_locator()
    frames = [frame for frame, _, _ in sequence(3)]
    far = [the_faces().pasted("grass", 10, 1, (110.0, 140.0))[0]] * 2
    nothing = the_faces().ground("brick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        followed = list(locator.track([*frames, nothing, *far]))
        alone = [locator.locate(frames[0]), locator.locate(nothing), locator.locate(far[0])]
    assert not followed[3].found
    for part, same in zip((followed[0], followed[3], followed[4]), alone, strict=True):
        assert part.score == same.score
        np.testing.assert_array_equal(part.matrix, same.matrix)
    assert off(followed[5], (110.0, 140.0)) < 6


def test_tracking_looks_once_at_a_frame_of_a_part_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locator = trained_locator()
    looked = []
    look = locator._places.look

    def counted(window: Frame) -> object:
        looked.append(window)
        return look(window)

    monkeypatch.setattr(locator._places, "look", counted)
    monkeypatch.setattr(locator, "calibration_", None)
    list(locator.track([frame for frame, _, _ in sequence(1)]))
    first = len(looked)
    list(locator.track([frame for frame, _, _ in sequence(6)]))
    assert len(looked) == 2 * first + 5


def test_frames_that_make_no_sense_are_refused() -> None:
    with pytest.raises(NotFittedError):
        next(SiamMask().track([np.zeros((40, 40, 3), np.uint8)]))
    locator = trained_locator()
    with pytest.raises(ImageError, match="image small: the template"):
        next(locator.track({"small": the_faces().ground("moon")[:24]}))
    locator.set_params(window_influence=1.0)
    try:
        with pytest.raises(ParameterError, match="window_influence: expected"):
            next(locator.track([the_faces().ground("moon")]))
    finally:
        locator.set_params(window_influence=0.3)
