"""Rates of decisions, and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, norm

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics import (
    CalibrationPoint,
    DecisionRates,
    Rate,
    calibration_curve,
    decision_rates,
    rate,
    verdicts,
)


class TestRate:
    @pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (1, 20), (3, 100), (50, 100)])
    @pytest.mark.parametrize("confidence", [0.5, 0.95])
    def test_clopper_and_pearson_is_that_of_the_beta_distribution(
        self, count: int, total: int, confidence: float
    ) -> None:
        found = rate(count, total, confidence=confidence)
        tail = (1 - confidence) / 2
        low = beta.ppf(tail, count, total - count + 1) if count else 0
        high = beta.ppf(1 - tail, count + 1, total - count) if count < total else 1
        assert (found.count, found.total, found.rate) == (count, total, count / total)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)

    @pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (1, 20), (50, 100)])
    def test_wilson_solves_its_equation(self, count: int, total: int) -> None:
        found = rate(count, total, confidence=0.9, interval="wilson")
        z = norm.ppf(0.95)
        for end in (found.low, found.high):
            spread = z * np.sqrt(end * (1 - end) / total)
            assert abs(end - found.rate) == pytest.approx(spread, abs=1e-9)
        assert found.low <= found.rate <= found.high

    def test_no_defect_in_sixty_leaves_room_for_a_rate_of_six_percent(self) -> None:
        # (1 - high)^60 = 0.025
        assert rate(0, 60).high == pytest.approx(1 - 0.025 ** (1 / 60))

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            ((1, 0), {}, ParameterError, "total: expected at least 1, got 0"),
            ((-1, 5), {}, ParameterError, "count: expected at least 0, got -1"),
            ((6, 5), {}, ParameterError, "count: expected at most 5, got 6"),
            ((0.5, 5), {}, DTypeError, "count: expected an integer, got float"),
            ((1, 5), {"confidence": 1.0}, ParameterError, "confidence: .* got 1.0"),
            ((1, 5), {"confidence": float("nan")}, ParameterError, "confidence: .* got nan"),
            (
                (1, 5),
                {"interval": "wald"},
                ParameterError,
                "interval: expected one of 'clopper-pearson', 'wilson', got 'wald'",
            ),
        ],
    )
    def test_bad_input_is_refused(
        self, arguments: Any, options: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            rate(*arguments, **options)


DEFECTIVE = [0, 0, 0, 0, 1, 1, 1, 1]
ANOMALOUS = [0, 1, 0, 0, 1, 0, 1, 1]
KINDS = ["good", "good", "good", "good", "cut", "cut", "hole", "hole"]


class TestDecisionRates:
    def test_are_counted_over_normal_and_defective_images_and_by_kind(self) -> None:
        found = decision_rates(DEFECTIVE, ANOMALOUS, KINDS)
        assert found == DecisionRates(
            false_alarms=rate(1, 4),
            detections=rate(3, 4),
            kinds={"cut": rate(1, 2), "hole": rate(2, 2)},
            undefined={},
        )

    def test_intervals_are_as_asked(self) -> None:
        found = decision_rates(DEFECTIVE, ANOMALOUS, KINDS, confidence=0.8, interval="wilson")
        assert found.kinds["hole"] == rate(2, 2, confidence=0.8, interval="wilson")
        assert found.false_alarms == rate(1, 4, confidence=0.8, interval="wilson")

    def test_a_rate_over_no_images_is_none_and_it_is_said_why(self) -> None:
        found = decision_rates(DEFECTIVE[4:], ANOMALOUS[4:], KINDS[4:])
        assert (found.false_alarms, found.detections) == (None, rate(3, 4))
        assert found.undefined == {"false_alarms": "no image is normal"}
        found = decision_rates(DEFECTIVE[:4], ANOMALOUS[:4], KINDS[:4])
        assert (found.false_alarms, found.detections, found.kinds) == (rate(1, 4), None, {})
        assert found.undefined == {
            "detections": "no image is defective",
            "kinds": "no image is defective",
        }

    def test_images_without_a_kind_count_in_the_whole_and_are_named(self) -> None:
        kinds = [None, None, "good", "good", "cut", None, "hole", None]
        found = decision_rates(DEFECTIVE, ANOMALOUS, kinds)
        assert found.detections == rate(3, 4)
        assert found.kinds == {"cut": rate(1, 1), "hole": rate(1, 1)}
        assert found.undefined == {"kinds": "2 of 4 defective images have no kind"}
        found = decision_rates(DEFECTIVE, ANOMALOUS)
        assert found.undefined == {"kinds": "4 of 4 defective images have no kind"}

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (([0, 1], [1]), ShapeError, "one decision per label, got 2 labels and 1 decisions"),
            (([[0]], [1]), ShapeError, r"is_defective: expected shape \(n_images,\), got \(1, 1\)"),
            (([0, 2], [1, 1]), ParameterError, "is_defective: .* got 2 at index 1"),
            (([0, 1], [1, np.nan]), ParameterError, "is_anomalous: .* got nan at index 1"),
            (([0, 1], ["a", "b"]), DTypeError, "is_anomalous: expected real numbers"),
            (([0, 1], [0, 1], ["cut"]), ShapeError, "kinds: .* each of 2 images, got 1 kinds"),
            (([0, 1], [0, 1], "ab"), ShapeError, "kinds: .* each of 2 images, got 'ab'"),
            (([0, 1], [0, 1], ["a", 3]), DTypeError, "kinds: .* got int at index 1"),
        ],
    )
    def test_bad_input_is_refused(
        self, arguments: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            decision_rates(*arguments)


class TestVerdicts:
    def test_a_p_value_at_the_rate_is_anomalous(self) -> None:
        # 5 / 100 is the p-value of a score that 4 of 99 calibration scores reach.
        assert verdicts([4 / 100, 5 / 100, 6 / 100], 0.05).tolist() == [True, True, False]

    @pytest.mark.parametrize("false_alarm_rate", [0.0, 1.0, -0.1, float("nan")])
    def test_the_rate_is_checked(self, false_alarm_rate: float) -> None:
        with pytest.raises(ParameterError, match=r"false_alarm_rate: .* above 0 and below 1, got"):
            verdicts([0.5], false_alarm_rate)

    @pytest.mark.parametrize("p_value", [-0.1, 1.1, float("nan")])
    def test_p_values_are_checked(self, p_value: float) -> None:
        with pytest.raises(ParameterError, match=f"p_values: .* got {p_value} at index 1"):
            verdicts([0.5, p_value], 0.1)


class TestCalibrationCurve:
    def test_has_the_realised_rate_of_each_that_was_asked_for(self) -> None:
        p_values = np.arange(1, 101) / 100
        found = calibration_curve(p_values, [0.2, 0.01, 0.055])
        assert [(point.asked, point.realised) for point in found] == [
            (0.2, rate(20, 100)),
            (0.01, rate(1, 100)),
            (0.055, rate(5, 100)),
        ]
        assert all(point.is_within for point in found)

    def test_shows_p_values_that_are_too_small(self) -> None:
        point = calibration_curve(np.linspace(0, 1, 200) ** 3, [0.05])[0]
        assert point.realised.count > 60
        assert not point.is_within

    def test_intervals_are_as_asked(self) -> None:
        (point,) = calibration_curve([0.1, 0.9], [0.5], confidence=0.5, interval="wilson")
        assert point == CalibrationPoint(0.5, rate(1, 2, confidence=0.5, interval="wilson"))
        assert isinstance(point.realised, Rate)

    def test_the_intervals_cover_the_asked_rate_of_valid_p_values(self) -> None:
        rng = np.random.default_rng(0)
        n_within = sum(calibration_curve(rng.random(80), [0.1])[0].is_within for _ in range(300))
        assert n_within >= 0.95 * 300 - 3 * np.sqrt(300 * 0.05 * 0.95)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (([], [0.1]), ParameterError, "p_values: .* at least one normal image, got none"),
            (([0.5], 0.1), ShapeError, r"rates: expected shape \(n_rates,\), got \(\)"),
            (([0.5], [0.1, 1.0]), ParameterError, r"rates\[1\]: .* got 1.0"),
            (([2], [0.1]), ParameterError, "p_values: expected numbers from 0 to 1, got 2.0"),
        ],
    )
    def test_bad_input_is_refused(
        self, arguments: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            calibration_curve(*arguments)
