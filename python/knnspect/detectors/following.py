"""Parts that are followed through a sequence of frames: one verdict a part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from knnspect.calibration import Calibration
from knnspect.calibration.conformal import DEFAULT_RATE, ROUNDING
from knnspect.constraints import Count, Positive
from knnspect.detectors.base import Detector
from knnspect.detectors.prediction import Prediction
from knnspect.errors import CalibrationError, ParameterError
from knnspect.locators import FoundPart, SiamMask

__all__ = [
    "FollowedPart",
    "PartNumbers",
    "follow_parts",
    "is_within",
    "joint_p_value",
    "rate_of_parts",
]


@dataclass(frozen=True, eq=False)
class FollowedPart:
    """A part that was followed, and what is said of it.

    Parameters
    ----------
    number : int
        Which part of the sequence it is, from 1.
    places : list of FoundPart
        Where it was found, by frames.
    predictions : list of Prediction
        What the detector says of it in each of these frames, upright and alone.
    share : float
        See `joint_p_value`.
    false_alarm_rate : float
        The share of normal parts that may be called anomalous.
    """

    number: int
    places: list[FoundPart] = field(repr=False)
    predictions: list[Prediction] = field(repr=False)
    share: float
    false_alarm_rate: float

    @property
    def p_value(self) -> float:
        """The p-value of the part, of all its frames; see `joint_p_value`."""
        return joint_p_value([each.p_value for each in self.predictions], self.share)

    @property
    def is_anomalous(self) -> bool:
        """Whether the p-value is at most the false-alarm rate."""
        return is_within(self.p_value, self.false_alarm_rate)

    @property
    def most_striking(self) -> Prediction:
        """The frame with the highest score."""
        return max(self.predictions, key=lambda each: each.score)


def joint_p_value(p_values: Sequence[float], share: float = 0.5) -> float:
    """Return one p-value of several that may depend on each other in any way.

    With the k smallest of n that make up the share, it is the k-th smallest times n / k. Where no
    single one is at most a with more than the probability a, n a / k ones are expected below a, so
    that k of them are with at most the probability n a / k (Markov). With the default, about twice
    the median: single frames that are blurred or dazzled decide nothing, and a defect is to be seen
    in half of them. With ``share`` of one frame it is Bonferroni's: the smallest, times n.

    Parameters
    ----------
    p_values : sequence of float
        At least one.
    share : float, default 0.5
        The share of them that is to be small; above 0, at most 1.

    Raises
    ------
    ParameterError
        If there is none, or the share lies outside.

    Source
    ------
    Rueger, "Das maximale Signifikanzniveau des Tests: Lehne H0 ab, wenn k unter n gegebenen Tests
    zur Ablehnung fuehren" (1978).

    Examples
    --------
    >>> joint_p_value([0.01, 0.02, 0.5, 0.9]), joint_p_value([0.01, 0.02, 0.5, 0.9], share=0.25)
    (0.04, 0.04)
    """
    Positive(at_most=1).check("share", share)
    if not len(p_values):
        raise ParameterError("p_values: expected at least one, got none")
    k = math.ceil(share * len(p_values) - ROUNDING)
    return min(1.0, sorted(p_values)[k - 1] * len(p_values) / k)


def is_within(p_value: float, rate: float) -> bool:
    """Return whether a p-value is at most a rate, with room for rounding."""
    return p_value <= rate * (1 + ROUNDING)


def follow_parts(
    detector: Detector,
    locator: SiamMask,
    frames: object,
    *,
    share: float = 0.5,
    missed: int = 3,
    margin: float = 0.0,
    false_alarm_rate: float | None = None,
) -> Iterator[FollowedPart]:
    """Follow parts through a sequence, judge every frame, and give one verdict a part.

    A part is followed while it is found; when it was lost for more than `missed` frames, what is
    found next is another part.

    Parameters
    ----------
    detector : Detector
        Fitted to ``locator.aligned(normal frames)``, with the same `margin`, and calibrated.
    locator : SiamMask
        Fitted; it follows the part.
    frames : path, or anything that `knnspect.data.open_images` takes
        A video file, a numbered folder, or images in their order; see
        `knnspect.data.open_sequence`.
    share : float, default 0.5
        The share of a part's frames that is to be strange; see `joint_p_value`.
    missed : int, default 3
        Frames after one another in which a part may be lost.
    margin : float, default 0
        See `Locator.aligned`.
    false_alarm_rate : float, optional
        The share of normal parts that may be called anomalous. By default the smallest that the
        detector's calibration can promise of a part, or 0.01.

    Yields
    ------
    FollowedPart
        The next part, once it is gone.

    Raises
    ------
    NotFittedError, CalibrationError
        If detector or locator are not fitted, or the detector is not calibrated.
    ParameterError
        If a parameter lies outside its values.
    ImageError
        If a frame cannot be used.
    """
    Positive(or_zero=True).check("margin", margin)
    detector._check_fitted()
    rate = rate_of_parts(detector.calibration_, share, false_alarm_rate)
    number_of = PartNumbers(missed)
    number = 0
    places: list[FoundPart] = []
    predictions: list[Prediction] = []
    for item, place in locator.tracked(frames):
        found = number_of(place.found)
        if places and number_of.is_gone:
            yield FollowedPart(number, places, predictions, share, rate)
            places, predictions = [], []
        if found is not None:
            number = found
            cut = place.view.with_margin(margin).cut(item.read(locator.backbone.reader()))
            places.append(place)
            predictions += detector.predict({item.id: cut}, n_workers=0)
    if places:
        yield FollowedPart(number, places, predictions, share, rate)


class PartNumbers:
    """Says of each frame, in order, which part it shows: the first, the second and so on.

    Parameters
    ----------
    missed : int
        Frames after one another in which a part may be lost.

    Raises
    ------
    ParameterError
        If `missed` is less than 0.

    Examples
    --------
    >>> number_of = PartNumbers(missed=1)
    >>> [number_of(found) for found in (True, False, True, False, False, True)]
    [1, None, 1, None, None, 2]
    """

    def __init__(self, missed: int) -> None:
        Count(minimum=0).check("missed", missed)
        self._missed = missed
        self._number, self._n_lost = 0, missed + 1

    @property
    def is_gone(self) -> bool:
        """Whether what is found next is another part than the last one."""
        return self._n_lost > self._missed

    def __call__(self, is_found: bool) -> int | None:
        """Return the part's number; None if the frame shows none."""
        if not is_found:
            self._n_lost += 1
            return None
        self._number += self.is_gone
        self._n_lost = 0
        return self._number


def rate_of_parts(
    calibration: Calibration | None, share: float, false_alarm_rate: float | None = None
) -> float:
    """Return the share of normal parts that may be called anomalous.

    Parameters
    ----------
    calibration : Calibration or None
        That of frames.
    share : float
        See `joint_p_value`.
    false_alarm_rate : float, optional
        What is asked for; by default the smallest that the calibration can promise of a part, or
        0.01.

    Raises
    ------
    CalibrationError
        If there is no calibration, or less is asked for than can be promised.
    ParameterError
        If a parameter lies outside its values.
    """
    Positive(at_most=1).check("share", share)
    if calibration is None:
        raise CalibrationError("parts are judged by detectors that are calibrated: this one is not")
    smallest = min(1.0, calibration.smallest_rate / share)
    if false_alarm_rate is None:
        return max(DEFAULT_RATE, smallest)
    Positive(below=1).check("false_alarm_rate", false_alarm_rate)
    if false_alarm_rate < smallest * (1 - ROUNDING):
        raise CalibrationError(
            f"false_alarm_rate: expected at least {smallest:.4g} of parts, which is that of frames "
            f"({calibration.smallest_rate:.4g}) divided by the share of {share:g}, got "
            f"{false_alarm_rate:g}: calibrate with more normal images"
        )
    return false_alarm_rate
