"""How often decisions are right: false alarms and detections, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics.checks import flags, vector
from knnspect.validation import check_choice, check_count, check_positive

__all__ = [
    "CalibrationPoint",
    "DecisionRates",
    "Interval",
    "Rate",
    "calibration_curve",
    "decision_rates",
    "rate",
    "verdicts",
]

Interval = Literal["clopper-pearson", "wilson"]

_SCIPY_NAMES: dict[Interval, str] = {"clopper-pearson": "exact", "wilson": "wilson"}


@dataclass(frozen=True)
class Rate:
    """A share of images, and the interval in which the true share lies with some confidence.

    Parameters
    ----------
    count, total : int
        `count` of `total` images.
    rate : float
        ``count / total``.
    low, high : float
        The ends of the interval.
    """

    count: int
    total: int
    rate: float
    low: float
    high: float


class CalibrationPoint(NamedTuple):
    """One point of a calibration curve.

    Attributes
    ----------
    asked
        The false-alarm rate that was asked for.
    realised
        The share of normal images that were called anomalous.
    """

    asked: float
    realised: Rate

    @property
    def is_within(self) -> bool:
        """Whether the rate that was asked for lies in the interval of the realised one."""
        return self.realised.low <= self.asked <= self.realised.high


@dataclass(frozen=True)
class DecisionRates:
    """How often normal and defective images were called anomalous.

    Parameters
    ----------
    false_alarms : Rate or None
        Over the normal images; None if there are none.
    detections : Rate or None
        Over the defective images; None if there are none.
    kinds : dict of str to Rate
        Detections of each kind of defect, in the order in which they come first.
    undefined : dict of str to str
        Why figures are missing: "false_alarms", "detections", and "kinds", the latter also when
        some defective images have no kind.
    """

    false_alarms: Rate | None
    detections: Rate | None
    kinds: dict[str, Rate] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


def rate(
    count: int, total: int, *, confidence: float = 0.95, interval: Interval = "clopper-pearson"
) -> Rate:
    """Return a share, and its interval for a binomial count.

    The interval of Clopper and Pearson covers the true share with at least the asked confidence,
    for every share and number of images: it is made of all shares that two one-sided exact
    binomial tests do not reject. That of Wilson is shorter; it covers the true share with about
    the asked confidence on average.

    Both take the images as independent draws. Images of one part, or frames of one video, are
    not; then the true interval is wider.

    Parameters
    ----------
    count
        How many images are meant, from 0 to `total`.
    total
        Of how many; at least 1.
    confidence
        With which the interval covers the true share, in (0, 1).
    interval
        "clopper-pearson" or "wilson".

    Raises
    ------
    ParameterError
        If a parameter lies outside its values.

    Source
    ------
    C. J. Clopper, E. S. Pearson: "The Use of Confidence or Fiducial Limits Illustrated in the Case
    of the Binomial", Biometrika 26, 1934. E. B. Wilson: "Probable Inference, the Law of
    Succession, and Statistical Inference", JASA 22, 1927. Computed by SciPy's ``binomtest``.

    Examples
    --------
    No false alarm among 100 normal images allows a rate of up to 3.6 %:

    >>> none = rate(0, 100)
    >>> none.rate, none.low, round(none.high, 4)
    (0.0, 0.0, 0.0362)
    >>> some = rate(3, 100, interval="wilson")
    >>> some.rate, round(some.low, 4), round(some.high, 4)
    (0.03, 0.0103, 0.0845)
    """
    _check_interval(confidence, interval)
    total = check_count("total", total)
    count = check_count("count", count, 0, total)
    from scipy.stats import binomtest

    found = binomtest(count, total).proportion_ci(confidence, _SCIPY_NAMES[interval])
    return Rate(count, total, count / total, float(found.low), float(found.high))


def verdicts(p_values: npt.ArrayLike, false_alarm_rate: float) -> npt.NDArray[np.bool_]:
    """Return which images are called anomalous: those whose p-value is at most the rate.

    Parameters
    ----------
    p_values
        Shape ``(n_images,)``, in [0, 1].
    false_alarm_rate
        In (0, 1).

    Returns
    -------
    ndarray of bool, shape (n_images,)
        True where the image is called anomalous.

    Raises
    ------
    ShapeError, DTypeError, ParameterError
        If `p_values` are not such numbers, or the rate is outside (0, 1).

    Examples
    --------
    >>> verdicts([0.01, 0.05, 0.3], 0.05)
    array([ True,  True, False])
    """
    return _checked_p_values(p_values) <= check_positive(
        "false_alarm_rate", false_alarm_rate, below=1
    )


def decision_rates(
    is_defective: npt.ArrayLike,
    is_anomalous: npt.ArrayLike,
    kinds: Sequence[str | None] | None = None,
    *,
    confidence: float = 0.95,
    interval: Interval = "clopper-pearson",
) -> DecisionRates:
    """Return the realised false-alarm and detection rates of decisions.

    The false-alarm rate is the share of normal images that were called anomalous; the detection
    rate that of defective images, over all of them and for each kind of defect. A rate over no
    images is None, and it is said why.

    Parameters
    ----------
    is_defective
        Shape ``(n_images,)``, bool or 0 and 1: whether each image is defective.
    is_anomalous
        Shape ``(n_images,)``, bool or 0 and 1: whether each image was called anomalous; see
        :func:`verdicts`.
    kinds
        One for each image: the kind of its defect, or None where it is not known. Those of normal
        images are not looked at.
    confidence, interval
        As for :func:`rate`.

    Returns
    -------
    DecisionRates
        The rates, with intervals.

    Raises
    ------
    ShapeError
        If an array is not one-dimensional, or the lengths differ.
    DTypeError
        If an array does not hold real numbers, or a kind is neither a string nor None.
    ParameterError
        If a value is neither 0 nor 1, or a parameter of the interval lies outside its values.

    Examples
    --------
    >>> is_defective = [False, False, True, True, True]
    >>> is_anomalous = [False, True, True, True, False]
    >>> rates = decision_rates(is_defective, is_anomalous, ["good", "good", "cut", "cut", "hole"])
    >>> rates.false_alarms.rate, rates.detections.count, list(rates.kinds)
    (0.5, 2, ['cut', 'hole'])
    >>> decision_rates([False], [False]).undefined
    {'detections': 'no image is defective', 'kinds': 'no image is defective'}
    """
    _check_interval(confidence, interval)
    defective = flags("is_defective", is_defective)
    anomalous = flags("is_anomalous", is_anomalous)
    if len(defective) != len(anomalous):
        raise ShapeError(
            "is_defective and is_anomalous: expected one decision per label, got "
            f"{len(defective)} labels and {len(anomalous)} decisions"
        )
    undefined: dict[str, str] = {}

    def share(chosen: npt.NDArray[np.bool_]) -> Rate:
        n_called = int(np.count_nonzero(anomalous & chosen))
        n_chosen = int(np.count_nonzero(chosen))
        return rate(n_called, n_chosen, confidence=confidence, interval=interval)

    false_alarms = detections = None
    by_kind: dict[str, Rate] = {}
    if defective.all():
        undefined["false_alarms"] = "no image is normal"
    else:
        false_alarms = share(~defective)
    if not defective.any():
        undefined |= dict.fromkeys(("detections", "kinds"), "no image is defective")
    else:
        detections = share(defective)
        names = _checked_kinds(kinds, defective)
        for name in dict.fromkeys(name for name in names if name is not None):
            by_kind[name] = share(np.array([other == name for other in names]))
        n_without = detections.total - sum(found.total for found in by_kind.values())
        if n_without:
            undefined["kinds"] = f"{n_without} of {detections.total} defective images have no kind"
    return DecisionRates(false_alarms, detections, by_kind, undefined)


def calibration_curve(
    p_values: npt.ArrayLike,
    rates: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    interval: Interval = "clopper-pearson",
) -> list[CalibrationPoint]:
    """Return what became of false-alarm rates that were asked for.

    At each rate, the realised one is the share of normal images whose p-value is at most that
    rate. p-values that are valid stay at or below it, but for chance: that is what the intervals
    show. They count the judged images as independent, and the calibration as given: with few
    calibration images, the rate that one calibration realises varies by more.

    Parameters
    ----------
    p_values
        Shape ``(n_images,)``, in [0, 1]: of normal images that were neither learnt from nor used
        for the calibration. At least one.
    rates
        Shape ``(n_rates,)``, in (0, 1): the false-alarm rates that are asked for.
    confidence, interval
        As for :func:`rate`.

    Returns
    -------
    list of CalibrationPoint
        One for each rate, in their order.

    Raises
    ------
    ShapeError
        If an array is not one-dimensional.
    DTypeError
        If an array does not hold real numbers.
    ParameterError
        If there is no p-value, or a number lies outside its values.

    Examples
    --------
    >>> p_values = [0.02, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0]
    >>> for point in calibration_curve(p_values, [0.05, 0.2]):
    ...     print(point.asked, point.realised.rate, point.is_within)
    0.05 0.1 True
    0.2 0.2 True
    """
    _check_interval(confidence, interval)
    values = _checked_p_values(p_values)
    if len(values) == 0:
        raise ParameterError(
            "p_values: expected those of at least one normal image, got none", parameter="p_values"
        )
    asked = vector("rates", rates, "n_rates")
    return [
        CalibrationPoint(
            checked,
            rate(
                int(np.count_nonzero(values <= checked)),
                len(values),
                confidence=confidence,
                interval=interval,
            ),
        )
        for i, number in enumerate(asked)
        for checked in [check_positive(f"rates[{i}]", number, below=1)]
    ]


def _check_interval(confidence: float, interval: Interval) -> None:
    check_positive("confidence", confidence, below=1)
    check_choice("interval", interval, list(_SCIPY_NAMES))


def _checked_p_values(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = vector("p_values", p_values).astype(np.float64)
    outside = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(outside):
        raise ParameterError(
            f"p_values: expected numbers from 0 to 1, got {values[outside[0]]} at index "
            f"{outside[0]}",
            parameter="p_values",
        )
    return values


def _checked_kinds(
    kinds: Sequence[str | None] | None, defective: npt.NDArray[np.bool_]
) -> list[str | None]:
    """Return the kind of each image; None for normal ones, and where it is not known."""
    if kinds is None:
        return [None] * len(defective)
    if isinstance(kinds, str) or len(kinds) != len(defective):
        came = repr(kinds) if isinstance(kinds, str) else f"{len(kinds)} kinds"
        raise ShapeError(
            f"kinds: expected one for each of {len(defective)} images, got {came}",
            parameter="kinds",
        )
    names: list[str | None] = []
    for i, (kind, is_defective) in enumerate(zip(kinds, defective, strict=True)):
        if kind is not None and not isinstance(kind, str):
            raise DTypeError(
                f"kinds: expected strings or None, got {type(kind).__name__} at index {i}",
                parameter="kinds",
            )
        names.append(kind if is_defective else None)
    return names
