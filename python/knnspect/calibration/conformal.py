"""Conformal p-values and thresholds: decisions with a stated false-alarm rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knnspect.errors import CalibrationError, DTypeError, ParameterError, ShapeError
from knnspect.validation import check_positive

__all__ = ["DEFAULT_RATE", "ROUNDING", "Calibration", "CalibrationKind", "Steps", "n_needed"]

#: The false-alarm rate that is used where none is asked for, if there are images enough for it.
DEFAULT_RATE = 0.01

#: How scores of normal images came about.
CalibrationKind = Literal["held out", "leave one out", "validation"]

_GUARANTEES: dict[CalibrationKind, str] = {
    "held out": "exact for images like these, which were not learnt from",
    "leave one out": "approximate: each normal image was compared with the others, and an image "
    "that is judged is compared with all of them",
    "validation": "approximate: training held these images out, and was stopped by them",
}

_IN_WORDS: dict[CalibrationKind, str] = {
    "held out": "held out",
    "leave one out": "left out one by one",
    "validation": "held out from training",
}

#: Rates and sums of weights are compared with this much room for their rounding.
ROUNDING = 1e-9


class Calibration:
    """Scores of normal images that a detector did not learn from, and the decisions they allow.

    An image's p-value is the share of normal images, itself counted among them, that score at least
    as high: ``(1 + number of scores at or above its own) / (n + 1)``. If it is normal, and came
    about as these did, its p-value is at most any rate with at most that probability (Vovk et al.,
    "Algorithmic Learning in a Random World", 2005). So calling an image anomalous where its p-value
    is at most the false-alarm rate keeps that rate; nothing is assumed about how scores are
    distributed. The largest values of the maps do the same for pixels.

    Images that come in blocks, such as frames of one video, say less than as many that came one by
    one. Each block counts once: its images share its weight (Lee, Barber, Willett,
    "Distribution-free inference with hierarchical data", 2025), and the rate holds for the
    next image of a new block.

    Parameters
    ----------
    scores : array-like of float, shape (n,)
        Scores of normal images.
    map_maxima : array-like of float, shape (n,)
        The largest map value of each of them.
    kind : {"held out", "leave one out", "validation"}, default "held out"
        How they came about, which decides what is promised; see `guarantee`.
    ids : sequence of str, optional
        The images; numbers by default.
    blocks : sequence of hashable, shape (n,), optional
        The block of each image; by default each is one of its own.
    n_images : int, optional
        How many normal images these were chosen from, where not all of them were scored.

    Raises
    ------
    CalibrationError
        If a score is not finite, or there is none.
    ShapeError, DTypeError, ParameterError
        If lengths differ, scores are no numbers, or there is no such kind.

    Examples
    --------
    >>> calibration = Calibration([0.2, 0.4, 0.3, 0.1], [0.5, 0.7, 0.9, 0.4])
    >>> calibration.p_value(0.35), calibration.smallest_rate
    (0.4, 0.2)
    >>> calibration.threshold(0.2), calibration.threshold(0.4), calibration.pixel_threshold(0.2)
    (0.4, 0.3, 0.9)
    >>> calibration.threshold(0.1)
    Traceback (most recent call last):
    ...
    knnspect.errors.CalibrationError: false_alarm_rate: 0.1 needs 9 normal images to be calibrated \
with, there are 4: the smallest rate they can promise is 0.2
    """

    def __init__(
        self,
        scores: ArrayLike,
        map_maxima: ArrayLike,
        kind: CalibrationKind = "held out",
        *,
        ids: Sequence[str] | None = None,
        blocks: Sequence[Hashable] | None = None,
        n_images: int | None = None,
    ) -> None:
        if kind not in _GUARANTEES:
            raise ParameterError(
                f"kind: expected one of {', '.join(map(repr, _GUARANTEES))}, got {kind!r}",
                parameter="kind",
            )
        self.kind: CalibrationKind = kind
        self.scores = _values("scores", scores)
        self.map_maxima = _values("map_maxima", map_maxima)
        n = len(self.scores)
        self.ids = tuple(map(str, range(n) if ids is None else ids))
        numbers: dict[Hashable, int] = {}
        of_each = range(n) if blocks is None else blocks
        self.blocks = np.array([numbers.setdefault(b, len(numbers)) for b in of_each], np.int64)
        self.n_images = n if n_images is None else n_images
        for name, length in (
            ("map_maxima", len(self.map_maxima)),
            ("ids", len(self.ids)),
            ("blocks", len(self.blocks)),
        ):
            if length != n:
                raise ShapeError(f"{name}: expected {n}, one for each score, got {length}")
        self.n_blocks = len(numbers)
        weights = 1.0 / np.bincount(self.blocks, minlength=self.n_blocks)[self.blocks]
        #: The p-values of scores, and of map values.
        self.of_score: Steps = _Ranked(self.scores, weights, self.n_blocks)
        self.of_map: Steps = _Ranked(self.map_maxima, weights, self.n_blocks)

    #: How many views of an image are judged, the smallest of whose p-values counts.
    n_views = 1

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        blocks = "" if self.n_blocks == len(self) else f" in {self.n_blocks} blocks"
        return (
            f"Calibration({len(self)} images{blocks}, {self.kind}, "
            f"smallest_rate={self.smallest_rate:.4g})"
        )

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate that can be promised."""
        return min(1.0, self.n_views / (self.n_blocks + 1))

    @property
    def guarantee(self) -> str:
        """What is promised, in words."""
        return f"{self._images}: {self.promise}"

    @property
    def summary(self) -> str:
        """How it came about, and from which false-alarm rate on it decides, in a few words.

        >>> Calibration([1, 2, 3], [1, 2, 3], "leave one out").summary
        '3 normal images left out one by one: false-alarm rates from 0.25'
        """
        return f"{self._images}: false-alarm rates from {self.smallest_rate:.3g}"

    @property
    def promise(self) -> str:
        """How far a false-alarm rate can be trusted, in words."""
        return _GUARANTEES[self.kind]

    @property
    def _images(self) -> str:
        """The images, and how they were scored, in words."""
        n, n_blocks = len(self), self.n_blocks
        words = f"{n} normal image{'s' if n > 1 else ''}"
        if n_blocks != n:
            words += f" in {n_blocks} block{'s' if n_blocks > 1 else ''},"
        if self.n_images != n:
            words = f"{words.removesuffix(',')}, chosen from {self.n_images},"
        return f"{words} {_IN_WORDS[self.kind]}"

    def rate(self, asked: float | None) -> float:
        """Return the false-alarm rate that is used.

        Parameters
        ----------
        asked : float or None
            The rate asked for; None: `DEFAULT_RATE`, or the smallest that can be promised where
            that is larger.

        Raises
        ------
        CalibrationError
            If the rate asked for is smaller than can be promised.
        """
        if asked is None:
            return max(DEFAULT_RATE, self.smallest_rate)
        check_positive("false_alarm_rate", asked, below=1)
        if asked < self.smallest_rate * (1 - ROUNDING):
            of = "normal images" if self.n_blocks == len(self) else "blocks of normal images"
            needed = n_needed(asked / self.n_views)
            raise CalibrationError(
                f"false_alarm_rate: {asked:g} needs {needed} {of} to be calibrated with, "
                f"there are {self.n_blocks}: the smallest rate they can promise is "
                f"{self.smallest_rate:.4g}",
                parameter="false_alarm_rate",
            )
        return asked

    def p_value(self, score: float) -> float:
        """Return the p-value of an image with this score, between `smallest_rate` and 1."""
        return self.of_score.p_value(score)

    def pixel_p_value(self, value: float) -> float:
        """Return the p-value of a map's pixel, or of a region with this largest value.

        It is that of the largest pixel of an image: a normal image has any pixel with a p-value of
        at most a rate with at most this probability.
        """
        return self.of_map.p_value(value)

    def threshold(self, rate: float | None = None) -> float:
        """Return the score above which an image is anomalous.

        Parameters
        ----------
        rate : float, optional
            The share of normal images that may be called anomalous; see `rate`.

        Raises
        ------
        CalibrationError
            If the rate is smaller than can be promised.
        """
        return self.of_score.threshold(self.rate(rate))

    def pixel_threshold(self, rate: float | None = None) -> float:
        """Return the map value above which a pixel is anomalous.

        A normal image has any such pixel with at most this probability.
        """
        return self.of_map.threshold(self.rate(rate))

    def following(
        self,
        added: Mapping[str, tuple[float, float]],
        removed: Collection[str],
        n_images: int,
    ) -> Calibration | None:
        """Return the calibration after images came and went; None if no score is left.

        Parameters
        ----------
        added : mapping of str to (float, float)
            Score and largest map value of images that came, each a block of its own.
        removed : collection of str
            Images that went; they need not be among `ids`.
        n_images : int
            How many normal images there are by now.

        Examples
        --------
        >>> Calibration([1, 2], [1, 2], ids=["a", "b"]).following({"c": (3, 3)}, ["a"], 2).scores
        array([2., 3.])
        """
        kept = np.array([id_ not in removed for id_ in self.ids], bool)
        values = list(added.values())
        if not kept.any() and not values:
            return None
        blocks: list[Hashable] = [*self.blocks[kept].tolist(), *added]
        return Calibration(
            [*self.scores[kept], *(score for score, _ in values)],
            [*self.map_maxima[kept], *(largest for _, largest in values)],
            self.kind,
            ids=[*(id_ for id_, stays in zip(self.ids, kept, strict=True) if stays), *added],
            blocks=blocks,
            n_images=n_images,
        )

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is kept in a file: JSON-compatible values, and arrays by name."""
        values = {"kind": self.kind, "ids": list(self.ids), "n_images": self.n_images}
        arrays = {
            "scores": self.scores,
            "map_maxima": self.map_maxima,
            "blocks": self.blocks,
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Calibration:
        """Return what `to_state` was called on.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or of another kind.
        """
        return cls(
            arrays["scores"],
            arrays["map_maxima"],
            values["kind"],
            ids=values["ids"],
            blocks=arrays["blocks"].tolist(),
            n_images=values["n_images"],
        )


class Steps(Protocol):
    """The p-value as a function of a value: it falls step by step."""

    @property
    def rising(self) -> NDArray[np.float64]:
        """The values behind which it falls, in rising order."""

    @property
    def p_values(self) -> NDArray[np.float64]:
        """The p-value of each of these."""

    @property
    def smallest(self) -> float:
        """The p-value of what is larger than all of them."""

    def p_value(self, value: float) -> float:
        """Return the p-value of a value."""

    def threshold(self, rate: float) -> float:
        """Return the value above which p-values are at most a rate."""


class _Ranked:
    """Values with weights, ranked from the largest on."""

    def __init__(
        self, values: NDArray[np.float64], weights: NDArray[np.float64], total: int
    ) -> None:
        order = np.argsort(-values, kind="stable")
        #: With the other sign, so that they rise.
        self._negative = -values[order]
        #: The weight of each value and of all larger ones, rank by rank.
        self._cumulative = np.cumsum(weights[order])
        #: The same with all values that are equal.
        last = np.searchsorted(self._negative, self._negative, side="right") - 1
        self._at_or_above = self._cumulative[last]
        self._total = total

    @property
    def rising(self) -> NDArray[np.float64]:
        return -self._negative[::-1]

    @property
    def p_values(self) -> NDArray[np.float64]:
        return np.minimum(1.0, (1 + self._at_or_above[::-1]) / (self._total + 1))

    @property
    def smallest(self) -> float:
        return 1 / (self._total + 1)

    def p_value(self, value: float) -> float:
        if math.isnan(value):
            return math.nan
        n = int(np.searchsorted(self._negative, -value, side="right"))
        weight = float(self._cumulative[n - 1]) if n else 0.0
        return min(1.0, (1 + weight) / (self._total + 1))

    def threshold(self, rate: float) -> float:
        # The largest value whose own p-value is above the rate: what lies above it is anomalous.
        above = 1 + self._at_or_above > rate * (self._total + 1) + ROUNDING
        return float(-self._negative[int(np.argmax(above))])


def n_needed(rate: float) -> int:
    """Return how many normal images a false-alarm rate needs at least.

    >>> n_needed(0.01), n_needed(0.05), n_needed(0.3)
    (99, 19, 3)
    """
    return math.ceil(1 / check_positive("false_alarm_rate", rate, below=1) - ROUNDING) - 1


def _values(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"{name}: expected numbers: {error}", parameter=name) from error
    if array.ndim != 1:
        raise ShapeError(f"{name}: expected one dimension, got {array.ndim}", parameter=name)
    if not len(array):
        raise CalibrationError(
            f"{name}: expected those of at least one normal image, got none", parameter=name
        )
    if not np.isfinite(array).all():
        first = int(np.argmin(np.isfinite(array)))
        raise CalibrationError(
            f"{name}: expected finite numbers, got {array[first]} for image {first}",
            parameter=name,
        )
    return array
