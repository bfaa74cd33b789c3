"""Decisions by several views of an image at once, such as regions or lights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration.conformal import ROUNDING, Calibration, Steps
from knnspect.errors import ParameterError

__all__ = ["JointCalibration"]

#: The share of a step of p-values that scores go through, so that no rounding reaches the next one.
_STEP = 0.99
#: Digits of p-values that are told apart; the others are rounding.
_DIGITS = 12


class JointCalibration(Calibration):
    """The calibrations of several views of an image, as one of the whole.

    The p-value of an image is the smallest one of its m views, times m (Bonferroni): a normal image
    has one of at most any rate with at most that probability, however the views depend on each
    other. Where views were calibrated with different numbers of images, no p-value counts as
    smaller than the fewest of these can give.

    Scores and map values of views have units of their own. Common ones are made of both p-values
    and distances: the joint score of an image is the largest of the `of_scores` of its views, each
    -log10 of the view's p-value, plus, within the step to the next smaller p-value, how far on the
    way from one normal score to the next the own score lies. Beyond the largest normal score c it
    goes on, by (score - c) / (c - median of the normal scores). So joint scores order images as
    their p-values do, and those that have the same p-value by how far they are from normal.

    Parameters
    ----------
    views : mapping of str to Calibration
        The calibration of each view, of which there are at least two.

    Examples
    --------
    >>> top = Calibration([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    >>> side = Calibration([10.0, 20.0, 30.0, 40.0], [10.0, 20.0, 30.0, 40.0])
    >>> joint = JointCalibration({"top": top, "side": side})
    >>> weak, strong = joint.of_scores("side", 35.0), joint.of_scores("top", 9.0)
    >>> top.p_value(9.0), joint.p_value(max(weak, strong)), joint.p_value(weak)
    (0.2, 0.4, 0.8)
    >>> joint.smallest_rate, strong > joint.threshold(0.4) > weak
    (0.4, True)
    """

    def __init__(self, views: Mapping[str, Calibration]) -> None:
        if len(views) < 2:
            raise ParameterError(f"views: expected at least two, got {len(views)}")
        fewest = min(views.values(), key=lambda each: each.n_blocks)
        of_scores = _Common({name: each.of_score for name, each in views.items()})
        of_maps = _Common({name: each.of_map for name, each in views.items()})
        self._common = of_scores, of_maps
        # Of each normal image the largest of its views, as of those that are judged.
        known: dict[str, list[float]] = {}
        for name, each in views.items():
            scores, maxima = self.of_scores(name, each.scores), self.of_maps(name, each.map_maxima)
            for id_, score, largest in zip(each.ids, scores, maxima, strict=True):
                before = known.get(id_, [-np.inf, -np.inf])
                known[id_] = [max(before[0], float(score)), max(before[1], float(largest))]
        scores, maxima = np.array(list(known.values())).T
        super().__init__(scores, maxima, fewest.kind, ids=list(known), n_images=fewest.n_images)
        self.n_views = len(views) * max(each.n_views for each in views.values())
        self.n_blocks = fewest.n_blocks
        self.of_score, self.of_map = self._common

    def of_scores(self, view: str, scores: Any) -> Any:
        """Return scores of a view, a number or an array, in the common unit."""
        return self._common[0].of(view, scores)

    def of_maps(self, view: str, values: Any) -> Any:
        """Return map values of a view, a number or an array, in the common unit."""
        return self._common[1].of(view, values)

    @property
    def strongest_normal(self) -> float:
        """The map value, in the common unit, from which on no normal image has a pixel."""
        return self._common[1].top

    @property
    def promise(self) -> str:
        """How far a false-alarm rate can be trusted, in words."""
        return f"{super().promise}; of {self.n_views} views the smallest p-value counts, times that"


class _Common:
    """Ranks of several views, and a unit for all of them."""

    def __init__(self, views: Mapping[str, Steps]) -> None:
        self._views = views
        floor = max(each.smallest for each in views.values())
        p_values = np.concatenate([each.p_values for each in views.values()] + [[1.0, floor]])
        #: From 1 down to the smallest one that all views can give.
        self._p_values = np.unique(np.round(p_values[p_values >= floor - ROUNDING], _DIGITS))[::-1]
        self._levels = -np.log10(self._p_values)
        self._scales = {name: _scale(each) for name, each in views.items()}

    @property
    def top(self) -> float:
        """What stands for the smallest p-value."""
        return float(self._levels[-1])

    @property
    def rising(self) -> NDArray[np.float64]:
        """The values behind which the p-value falls: just below what stands for the next one."""
        found: NDArray[np.float64] = self._levels[1:] - (1 - _STEP) / 2 * np.diff(self._levels)
        return found

    @property
    def p_values(self) -> NDArray[np.float64]:
        """The p-value of each of these."""
        found: NDArray[np.float64] = np.minimum(1.0, len(self._views) * self._p_values[:-1])
        return found

    @property
    def smallest(self) -> float:
        """The p-value of what is larger than all of them."""
        return self.p_value(np.inf)

    def of(self, view: str, values: Any) -> Any:
        """Return values of a view in the common unit."""
        ranked, scale = self._views[view], self._scales[view]
        values = np.asarray(values, np.float64)
        normal = ranked.rising
        # Between which of its normal values each lies: above `below`, and not above the next.
        n_below = np.searchsorted(normal, values, "left")
        p_values = np.concatenate([ranked.p_values, [ranked.smallest]])[n_below]
        places = np.searchsorted(-self._p_values, -np.maximum(p_values, self._p_values[-1]) - 1e-10)
        places = places.clip(0, len(self._levels) - 1)
        is_top = places == len(self._levels) - 1
        low = normal[(n_below - 1).clip(0)]
        high = normal[n_below.clip(0, len(normal) - 1)]
        start = ranked.threshold(self._p_values[-1])
        steps = np.append(np.diff(self._levels), 0.0)[places]
        with np.errstate(invalid="ignore", divide="ignore"):  # of what is not chosen
            first = 1 / (1 + (normal[0] - values) / scale)
            within = np.where(n_below == 0, first, (values - low) / (high - low))
            rest = np.where(is_top, (values - start) / scale, _STEP * within * steps)
        found = self._levels[places] + rest
        return found if found.ndim else float(found)

    def p_value(self, value: float) -> float:
        """Return the p-value of an image with this largest value."""
        place = int(np.searchsorted(self._levels, value, "right")) - 1
        return min(1.0, len(self._views) * float(self._p_values[max(place, 0)]))

    def threshold(self, rate: float) -> float:
        """Return the value above which p-values are at most a rate."""
        is_small = len(self._views) * self._p_values <= rate * (1 + ROUNDING)
        place = int(is_small.argmax()) if is_small.any() else len(is_small) - 1
        return float(self.rising[place - 1])


def _scale(ranked: Steps) -> float:
    """Return how far the largest normal value is from the middle one."""
    largest, middle = float(ranked.rising[-1]), float(np.median(ranked.rising))
    return largest - middle or abs(largest) or 1.0
