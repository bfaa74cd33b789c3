"""Several views, one decision: Bonferroni's p-value, and scores that order as it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnspect import Calibration, CalibrationError, ParameterError
from knnspect.calibration.joint import JointCalibration


def calibrations(seed: int, *sizes: int) -> dict[str, Calibration]:
    random = np.random.default_rng(seed)
    return {
        f"view {number}": Calibration(
            random.gamma(2, 3.0**number, n), random.gamma(3, 3.0**number, n)
        )
        for number, n in enumerate(sizes)
    }


def drawn(views: dict[str, Calibration], seed: int, n: int = 400) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(n):
        part = {}
        for name, each in views.items():
            score = float(random.gamma(2, np.median(each.scores)))
            # A calibration score itself, now and then: ties.
            part[name] = float(random.choice(each.scores)) if random.random() < 0.3 else score
        parts.append(part)
    return parts


def joined(joint: JointCalibration, part: dict[str, float]) -> float:
    return float(max(joint.of_scores(name, score) for name, score in part.items()))


@pytest.mark.parametrize("sizes", [(9, 9), (30, 30, 30), (12, 40), (1, 1)])
def test_the_p_value_is_the_smallest_of_the_views_times_their_number(
    sizes: tuple[int, ...],
) -> None:
    views = calibrations(0, *sizes)
    joint = JointCalibration(views)
    floor = 1 / (min(sizes) + 1)
    for part in drawn(views, 1):
        smallest = min(max(views[name].p_value(score), floor) for name, score in part.items())
        expected = min(1.0, len(sizes) * smallest)
        assert joint.p_value(joined(joint, part)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sizes", [(9, 9), (30, 30, 30), (12, 40)])
@pytest.mark.parametrize("rate", [0.25, 0.34, 0.5, 0.8])
def test_the_threshold_decides_as_the_p_value_does(sizes: tuple[int, ...], rate: float) -> None:
    views = calibrations(2, *sizes)
    joint = JointCalibration(views)
    threshold, decided = joint.threshold(rate), set()
    for part in drawn(views, 3):
        score = joined(joint, part)
        assert (score > threshold) == (joint.p_value(score) <= rate + 1e-9)
        # So does the same number as float32, as maps have it.
        assert (np.float32(score) > threshold) == (score > threshold)
        decided.add(score > threshold)
    assert decided == {False, True}


def test_scores_order_as_p_values_do_and_beyond_them() -> None:
    views = calibrations(4, 20, 20)
    joint = JointCalibration(views)
    scores = np.array([joined(joint, part) for part in drawn(views, 5)])
    p_values = np.array([joint.p_value(score) for score in scores])
    order = np.argsort(scores)
    assert (np.diff(p_values[order]) <= 1e-12).all()
    # Beyond the smallest p-value they still rise, in units of how far normal scores spread.
    largest, middle = views["view 0"].scores.max(), np.median(views["view 0"].scores)
    steps = [joint.of_scores("view 0", largest + k * (largest - middle)) for k in (1, 2, 5)]
    np.testing.assert_allclose(np.diff(steps), (1, 3))


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-50, 500), min_size=2, max_size=30))
def test_a_view_rises_strictly(seed: int, values: list[float]) -> None:
    joint = JointCalibration(calibrations(seed, 7, 7))
    rising = np.unique(values)
    rising = rising[np.append(True, np.diff(rising) > 1e-3)]
    common = joint.of_scores("view 1", rising)
    assert (np.diff(common) > 0).all()
    assert joint.of_scores("view 1", float(rising[0])) == common[0]


def test_false_alarms_keep_the_rate_whatever_depends_on_what() -> None:
    """Of normal parts whose views are equal, or independent, at most the rate is anomalous."""
    random = np.random.default_rng(6)
    alarms = {"equal": 0, "independent": 0}
    n, rate = 600, 0.2
    for _ in range(n):
        for kind in alarms:
            scores = random.normal(size=(2, 20))
            if kind == "equal":
                scores[1] = scores[0]
            views = {name: Calibration(own[:19], own[:19]) for name, own in zip("ab", scores)}  # noqa: B905
            joint = JointCalibration(views)
            score = max(joint.of_scores(name, own[19]) for name, own in zip("ab", scores))  # noqa: B905
            alarms[kind] += score > joint.threshold(rate)
    bound = rate + 3 * np.sqrt(rate * (1 - rate) / n)
    assert alarms["equal"] / n <= bound
    assert 0.1 < alarms["independent"] / n <= bound


def test_pixels_are_decided_alike() -> None:
    views = calibrations(7, 15, 15)
    joint = JointCalibration(views)
    rate = 0.25
    for name, each in views.items():
        values = np.linspace(0, 3 * each.map_maxima.max(), 500, dtype=np.float32)
        common = joint.of_maps(name, values).astype(np.float32)
        own = values > each.pixel_threshold(rate / 2)
        np.testing.assert_array_equal(common > joint.pixel_threshold(rate), own)


def test_a_joint_calibration_may_be_a_view_itself() -> None:
    inner = {name: JointCalibration(calibrations(seed, 19, 19)) for seed, name in enumerate("ab")}
    joint = JointCalibration(inner)
    assert joint.smallest_rate == pytest.approx(4 / 20)
    for score in np.linspace(-1, 5, 60):
        of_one = joint.of_scores("a", score)
        expected = min(1.0, 2 * inner["a"].p_value(score))
        assert joint.p_value(of_one) == pytest.approx(expected, abs=1e-9)


def test_a_rate_that_is_too_small_names_how_many_images_it_needs() -> None:
    joint = JointCalibration(calibrations(8, 19, 19))
    assert joint.smallest_rate == joint.rate(None) == pytest.approx(0.1)
    with pytest.raises(CalibrationError, match=r"0\.01 needs 199 normal images .* promise is 0\.1"):
        joint.threshold(0.01)


def test_one_view_is_none_to_join() -> None:
    with pytest.raises(ParameterError, match="at least two, got 1"):
        JointCalibration(calibrations(9, 5))


def test_it_says_what_counts() -> None:
    joint = JointCalibration(calibrations(10, 5, 5))
    assert "of 2 views the smallest p-value counts" in joint.promise
    assert len(joint) == 5
