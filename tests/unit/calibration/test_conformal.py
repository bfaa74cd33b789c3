"""What p-values and thresholds promise, held against its definition and counted out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnspect import Calibration, CalibrationError, DTypeError, ParameterError, ShapeError
from knnspect.calibration.conformal import DEFAULT_RATE, n_needed

# Few values, so that many are equal.
SCORES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40)
RATES = st.integers(1, 199).map(lambda n: n / 200)


def calibration(scores: Any, **options: Any) -> Calibration:
    return Calibration(scores, scores, **options)


class TestPValues:
    @given(SCORES, st.integers(-1, 7).map(float))
    def test_are_the_share_of_scores_at_or_above_its_own(
        self, scores: list[float], score: float
    ) -> None:
        found = calibration(scores).p_value(score)
        expected = Fraction(1 + sum(other >= score for other in scores), len(scores) + 1)
        assert found == pytest.approx(float(expected), abs=1e-12)

    @given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=40))
    def test_count_each_block_once(self, images: list[tuple[int, int]]) -> None:
        scores = [float(score) for score, _ in images]
        blocks = [block for _, block in images]
        found = calibration(scores, blocks=blocks)
        for score in (-1.0, 0.0, 3.0, 6.0, 7.0):
            weight = sum(
                Fraction(sum(s >= score for s, b in images if b == block), blocks.count(block))
                for block in set(blocks)
            )
            expected = (1 + weight) / (len(set(blocks)) + 1)
            assert found.p_value(score) == pytest.approx(float(expected), abs=1e-12)

    def test_of_pixels_are_those_of_the_largest_of_an_image(self) -> None:
        found = Calibration([1.0, 2.0, 3.0], [30.0, 10.0, 20.0])
        assert [found.pixel_p_value(v) for v in (5, 15, 20, 31)] == [1.0, 0.75, 0.75, 0.25]


class TestThresholds:
    @given(SCORES, RATES)
    def test_part_images_as_their_p_values_do(self, scores: list[float], rate: float) -> None:
        found = calibration(scores)
        if rate < found.smallest_rate - 1e-12:
            with pytest.raises(CalibrationError, match=f"needs {n_needed(rate)} normal images"):
                found.threshold(rate)
            return
        threshold = found.threshold(rate)
        assert threshold in scores
        for score in np.arange(-0.5, 7.5, 0.5):
            p_value = found.p_value(score)
            assert (score > threshold) == (p_value <= rate + 1e-12)

    @given(st.lists(st.integers(0, 6).map(float), min_size=2, max_size=40), RATES)
    def test_keep_the_rate_whichever_image_comes_last(
        self, scores: list[float], rate: float
    ) -> None:
        # Where any order is as likely, each image is the one to be judged equally often.
        n_alarms = 0
        for index, score in enumerate(scores):
            found = calibration(scores[:index] + scores[index + 1 :])
            if rate >= found.smallest_rate:
                n_alarms += score > found.threshold(rate)
        assert n_alarms <= rate * len(scores) + 1e-9

    @given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=2, max_size=9))
    def test_keep_the_rate_whichever_block_comes_last(self, blocks: list[list[int]]) -> None:
        for rate in (0.2, 0.25, 0.5, 0.75):
            alarms = 0.0
            for index, judged in enumerate(blocks):
                others = [*blocks[:index], *blocks[index + 1 :]]
                scores = [float(score) for block in others for score in block]
                of_each = [number for number, block in enumerate(others) for _ in block]
                found = calibration(scores, blocks=of_each)
                if rate >= found.smallest_rate:
                    threshold = found.threshold(rate)
                    alarms += float(np.mean([score > threshold for score in judged]))
            assert alarms <= rate * len(blocks) + 1e-9

    def test_of_new_scores_without_ties_alarm_at_the_rate(self) -> None:
        rng = np.random.default_rng(0)
        for n, rate in ((19, 0.05), (49, 0.1), (99, 0.01)):
            alarms = [
                scores[-1] > calibration(scores[:-1]).threshold(rate)
                for scores in rng.normal(size=(4000, n + 1))
            ]
            assert np.mean(alarms) == pytest.approx(rate, abs=4 * np.sqrt(rate / 4000))


class TestRates:
    def test_the_default_is_a_hundredth_or_the_smallest_that_can_be_promised(self) -> None:
        assert calibration(np.arange(50.0)).rate(None) == 1 / 51
        assert calibration(np.arange(500.0)).rate(None) == DEFAULT_RATE

    def test_rounding_does_not_cost_an_image(self) -> None:
        for n in range(1, 400):
            assert calibration(np.arange(float(n))).rate(1 / (n + 1)) == 1 / (n + 1)
        # .29 x 100 is 28.999999999999996.
        assert calibration(np.arange(99.0)).threshold(0.29) == 70

    def test_too_few_images_say_how_many_are_needed(self) -> None:
        with pytest.raises(CalibrationError) as caught:
            calibration(np.arange(50.0)).threshold(0.001)
        assert str(caught.value) == (
            "false_alarm_rate: 0.001 needs 999 normal images to be calibrated with, there are 50: "
            "the smallest rate they can promise is 0.01961"
        )
        assert caught.value.parameter == "false_alarm_rate"

    def test_too_few_blocks_say_so(self) -> None:
        with pytest.raises(CalibrationError, match=r"needs 19 blocks of normal images .* are 10:"):
            calibration(np.arange(50.0), blocks=[n // 5 for n in range(50)]).threshold(0.05)

    @pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
    def test_outside_0_and_1_are_refused(self, rate: float) -> None:
        with pytest.raises(ParameterError, match="above 0 and below 1"):
            calibration([1.0, 2.0]).threshold(rate)

    @pytest.mark.parametrize("rate", ["0.1", True, [0.1]])
    def test_that_are_no_numbers_are_refused(self, rate: Any) -> None:
        with pytest.raises(DTypeError, match="false_alarm_rate: expected a number"):
            calibration([1.0, 2.0]).threshold(rate)


class TestBadInput:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_scores_that_are_not_finite(self, bad: float) -> None:
        with pytest.raises(CalibrationError, match=r"scores: expected finite .* for image 1"):
            Calibration([1.0, bad], [1.0, 1.0])
        with pytest.raises(CalibrationError, match="map_maxima: expected finite"):
            Calibration([1.0, 1.0], [1.0, bad])

    def test_no_scores(self) -> None:
        with pytest.raises(CalibrationError, match=r"scores: .* at least one normal image"):
            calibration([])

    def test_lengths_that_differ(self) -> None:
        with pytest.raises(ShapeError, match="map_maxima: expected 2, one for each score, got 1"):
            Calibration([1.0, 2.0], [1.0])
        with pytest.raises(ShapeError, match="ids: expected 2"):
            calibration([1.0, 2.0], ids=["a"])
        with pytest.raises(ShapeError, match="blocks: expected 2"):
            calibration([1.0, 2.0], blocks=[1])
        with pytest.raises(ShapeError, match="one dimension, got 2"):
            calibration([[1.0]])

    def test_another_kind_or_type(self) -> None:
        with pytest.raises(ParameterError, match="kind: expected one of 'held out'"):
            calibration([1.0], kind="guessed")
        with pytest.raises(DTypeError, match="scores: expected numbers"):
            calibration(["high"])


def test_what_is_kept_in_a_file_is_the_same() -> None:
    found = Calibration(
        [0.1, 0.7, 0.3],
        [1.0, 2.0, 3.0],
        "leave one out",
        ids=["a", "b", "c"],
        blocks=[5, 5, "x"],
        n_images=40,
    )
    values, arrays = found.to_state()
    again = Calibration.from_state(values, arrays)
    assert repr(again) == repr(found)
    assert again.guarantee == found.guarantee
    assert again.ids == found.ids
    assert [again.p_value(s) for s in (0, 0.3, 1)] == [found.p_value(s) for s in (0, 0.3, 1)]
    assert again.pixel_threshold(0.5) == found.pixel_threshold(0.5)


def test_each_kind_says_what_it_promises() -> None:
    assert calibration([1.0, 2.0]).guarantee.startswith("2 normal images held out: exact")
    text = calibration([1.0, 2.0], kind="leave one out", blocks=[0, 0], n_images=9).guarantee
    assert text.startswith("2 normal images in 1 block, chosen from 9, left out one by one: approx")
