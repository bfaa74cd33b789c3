"""One verdict for a part that is followed through many frames."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import pytest
from faces import normal_frames, the_faces, trained_locator
from numpy.typing import NDArray

import knnspect as ks
from knnspect import CalibrationError, ImageWarning, NotFittedError, ParameterError
from knnspect.detectors.following import joint_p_value, rate_of_parts


@pytest.mark.parametrize(
    ("p_values", "share", "expected"),
    [
        ([0.1], 0.5, 0.1),
        ([0.01, 0.03, 0.2], 0.5, 0.03 * 3 / 2),
        ([0.01, 0.03, 0.2], 1.0, 0.2),
        ([0.01, 0.03, 0.2], 0.01, 0.03),
        ([0.9, 0.8, 0.7, 0.6], 0.5, 1.0),
    ],
)
def test_joint_p_values_by_hand(p_values: list[float], share: float, expected: float) -> None:
    assert joint_p_value(p_values, share) == pytest.approx(expected)
    assert joint_p_value(p_values[::-1], share) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_joint_p_value_is_valid_however_frames_depend(share: float) -> None:
    rng = np.random.default_rng(0)
    common = rng.random((4000, 1))
    own = rng.random((4000, 20))
    worst = (common + np.arange(20) / 20) % 1  # each frame is small at another time
    for p_values in (np.repeat(common, 20, axis=1), own, np.where(own < 0.5, common, own), worst):
        joint = np.array([joint_p_value(row.tolist(), share) for row in p_values])
        for rate in (0.05, 0.2):
            assert (joint <= rate).mean() <= rate + 0.02


def test_bad_values_are_refused() -> None:
    with pytest.raises(ParameterError, match="expected at least one"):
        joint_p_value([])
    with pytest.raises(ParameterError, match="share: expected at most 1"):
        joint_p_value([0.1], 1.5)


@lru_cache
def the_frames() -> dict[str, NDArray[np.uint8]]:
    """A part that moves, frames without one, and one with a green mark."""
    faces = the_faces()
    ways = [(60.0 + 3 * step, 60.0 + 5 * step) for step in range(4)]
    good = [faces.pasted("grass", 5 * step, 1, at)[0] for step, at in enumerate(ways)]
    spoilt: list[NDArray[np.uint8]] = []
    for frame, at in zip(good, ways, strict=True):
        spoilt.append(frame.copy())
        row, column = round(at[0]), round(at[1])
        spoilt[-1][row - 7 : row + 1, column - 12 : column - 3] = (0, 255, 0)
    return {
        **{f"good {n}": frame for n, frame in enumerate(good)},
        **{f"none {n}": faces.ground("brick") for n in range(3)},
        **{f"spoilt {n}": frame for n, frame in enumerate(spoilt)},
    }


def unfitted() -> ks.PatchCore:
    return ks.PatchCore(ks.Backbone(levels=(1, 2), image_size=64), coreset=1.0, sigma=1.0)


@lru_cache
def the_aligned() -> ks.Aligned:
    frames = the_frames()
    normal = {**normal_frames(), "n0": frames["good 0"], "n1": frames["good 2"]}
    locator = trained_locator()
    found = {part.image_id for part in locator.locate_all(normal) if part.found}
    detector = ks.Aligned(unfitted(), locator=locator)
    return detector.fit({id_: frame for id_, frame in normal.items() if id_ in found})


def test_frames_are_judged_where_the_part_was_followed_to() -> None:
    aligned, frames = the_aligned(), the_frames()
    judged = list(aligned.iter_follow(frames, missed=1, keep_pictures=True, batch_size=3))
    assert [one.id for _, one in judged] == list(frames)
    tracked = list(aligned.locator.track(frames))  # type: ignore[attr-defined]
    for (number, one), place, frame in zip(judged, tracked, frames.values(), strict=True):
        assert (number is not None) == one.is_found == place.found
        assert one.map.shape == frame.shape[:2]
        assert one.found is not None
        assert one.found.rotated_box == place.rotated_box
        assert one.picture is not None
        assert np.array_equal(one.picture, frame)
    inside = aligned.views_["part"]
    parts = ks.follow_parts(inside, aligned.locator, frames, missed=1)  # type: ignore[arg-type]
    for part in parts:
        same = [one for number, one in judged if number == part.number]
        assert [one.id for one in same] == [one.id for one in part.predictions]
        assert [one.score for one in same] == [one.score for one in part.predictions]
    # What is judged one by one afterwards is located anew.
    assert aligned.predict(frames)[0].found is not None
    with pytest.raises(ParameterError, match=r"expected a SiamMask.*got a GoldenTemplate"):
        ks.Aligned(unfitted()).iter_follow(frames)


def test_a_rate_of_parts_that_cannot_be_promised_is_refused() -> None:
    known = the_aligned().calibration_
    assert known is not None
    smallest = known.smallest_rate / 0.5
    assert rate_of_parts(known, 0.5) == rate_of_parts(known, 0.5, smallest) == smallest
    with pytest.raises(CalibrationError, match=f"at least {smallest:.4g} of parts.* got 0.01: cal"):
        rate_of_parts(known, 0.5, 0.01)
    with pytest.raises(NotFittedError, match="PatchCore"):
        list(ks.follow_parts(unfitted(), trained_locator(), the_frames()))
    few = unfitted().fit([the_frames()["good 0"]])
    with pytest.raises(CalibrationError, match="detectors that are calibrated"):
        list(ks.follow_parts(few, trained_locator(), the_frames()))


def test_parts_of_a_sequence_are_judged_one_by_one() -> None:
    locator, frames = trained_locator(), the_frames()
    detector = unfitted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        normal = {**normal_frames(), "n0": frames["good 0"], "n1": frames["good 2"]}
        detector.fit(locator.aligned(normal), skip_bad=True)
        parts = list(ks.follow_parts(detector, locator, frames, missed=1, share=1.0))
        together = list(ks.follow_parts(detector, locator, frames, missed=3))
    assert [part.number for part in parts] == [1, 2]
    for part, name in zip(parts, ("good", "spoilt"), strict=True):
        ids = [prediction.id for prediction in part.predictions]
        assert ids == [place.image_id for place in part.places]
        assert len(ids) >= 2
        assert all(id_.startswith(name) for id_ in ids)
        assert part.p_value == joint_p_value([p.p_value for p in part.predictions], 1.0)
        assert part.is_anomalous == (part.p_value <= part.false_alarm_rate)
    assert parts[1].most_striking.score > parts[0].most_striking.score
    assert len(together) == 1
    assert len(together[0].places) == sum(len(part.places) for part in parts)
    with pytest.raises(ParameterError, match="missed: expected at least 0"):
        next(ks.follow_parts(detector, locator, frames, missed=-1))
