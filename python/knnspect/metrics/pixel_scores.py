"""The pixels of many maps, sorted once for all metrics that rank them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.metrics.checks import threshold_value
from knnspect.metrics.image import F1Max

__all__ = ["Arrays", "PixelScores"]

Arrays: TypeAlias = Sequence[npt.ArrayLike] | npt.NDArray[Any]
_Mask: TypeAlias = npt.NDArray[np.bool_]
_Map: TypeAlias = npt.NDArray[Any]
_Floats: TypeAlias = npt.NDArray[np.float64]
_Counts: TypeAlias = npt.NDArray[np.int64]


class PixelScores:
    """Masks and maps of images, for several metrics over their pixels.

    The functions over pixels, such as :func:`~knnspect.metrics.pixel_auroc`, give one figure each.
    This class gives the same figures and shares the work: the normal pixels, which are nearly
    all, are copied and sorted once, when a figure first needs that. A sum of two has the images of
    both and sorts no normal pixel again, so figures of parts and of the whole take little longer
    than those of the whole.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective. They are kept as they are, and must not be changed afterwards.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite. The methods raise it, too, if there is no
        defective or no normal pixel.

    Examples
    --------
    >>> good = PixelScores([[[False, False]]], [[[0.3, 0.1]]])
    >>> cut = PixelScores([[[True, False]]], [[[0.4, 0.2]]])
    >>> hole = PixelScores([[[True, False]]], [[[0.2, 0.1]]])
    >>> [round(scores.auroc(), 4) for scores in (good + cut, good + hole, good + cut + hole)]
    [1.0, 0.6667, 0.8125]
    """

    def __init__(self, masks: Arrays, maps: Arrays) -> None:
        self._images = _checked(masks, maps)
        normal = [image for image in self._images if image.n_defective == 0]
        others = [image for image in self._images if image.n_defective > 0]
        self._of_normal_images = [_NormalPixels(normal)]
        self._of_defective_images = [_NormalPixels(others)]

    def __add__(self, other: PixelScores) -> PixelScores:
        """Return the scores of the images of both, those of `self` first."""
        if not isinstance(other, PixelScores):
            return NotImplemented
        both = object.__new__(PixelScores)
        both._images = self._images + other._images
        both._of_normal_images = self._of_normal_images + other._of_normal_images
        both._of_defective_images = self._of_defective_images + other._of_defective_images
        return both

    def __len__(self) -> int:
        return len(self._images)

    @property
    def n_defective(self) -> int:
        """Number of defective pixels."""
        return sum(image.n_defective for image in self._images)

    @property
    def n_normal(self) -> int:
        """Number of normal pixels, those of defective images included."""
        return sum(image.map_.size for image in self._images) - self.n_defective

    def auroc(self) -> float:
        """Return the same as :func:`~knnspect.metrics.pixel_auroc`."""
        levels = self._levels
        # Counting pairs, not making the curve: exact, as the counts are whole numbers.
        n_below, n_not_above = levels.n_normal - levels.n_at, levels.n_normal - levels.n_above
        won = int((levels.n_defective * (n_below + n_not_above)).sum())
        return won / (2 * levels.n_normal * int(levels.n_defective.sum()))

    def average_precision(self) -> float:
        """Return the same as :func:`~knnspect.metrics.pixel_average_precision`."""
        levels = self._levels
        n_found = np.cumsum(levels.n_defective)
        precision = n_found / (n_found + levels.n_at)
        return min(float((levels.n_defective * precision).sum() / n_found[-1]), 1.0)

    def f1_max(self) -> F1Max:
        """Return the same as :func:`~knnspect.metrics.pixel_f1_max`."""
        levels = self._levels
        # Other thresholds need no look: the next higher value of a defective pixel finds the same
        # pixels, and calls at most as many normal ones defective.
        n_found = np.cumsum(levels.n_defective)
        f1 = 2 * n_found / (n_found + levels.n_at + n_found[-1])
        best = int(np.argmax(f1))  # the first of equals has the highest threshold
        return F1Max(float(f1[best]), float(levels.thresholds[best]))

    def f1(self, threshold: float) -> float:
        """Return the same as :func:`~knnspect.metrics.pixel_f1`."""
        threshold = threshold_value(threshold)
        self._check()
        n_called = n_found = n_defective = 0
        for mask, map_, n in self._images:
            called = map_ >= threshold
            n_called += int(np.count_nonzero(called))
            if n:
                n_found += int(np.count_nonzero(called & mask))
                n_defective += n
        return 2 * n_found / (n_called + n_defective)

    def aupro(self, max_fpr: float = 0.3) -> float:
        """Return the same as :func:`~knnspect.metrics.aupro`."""
        if not 0 < max_fpr <= 1:
            raise ParameterError(
                f"max_fpr: expected a number above 0 and at most 1, got {max_fpr}",
                parameter="max_fpr",
            )
        return _area(*self._pro_curve, max_fpr)

    def aupimo(self, fpr_range: tuple[float, float] = (1e-5, 1e-4)) -> _Floats:
        """Return the same as :func:`~knnspect.metrics.aupimo`."""
        low, high = _checked_range(fpr_range)
        self._check()
        shared = self._shared_fpr(low, high)
        areas = np.full(len(self._images), np.nan)
        for i, (mask, map_, n_defective) in enumerate(self._images):
            if n_defective:
                # A pixel is found from the rate on that its own value has as a threshold. Of the
                # range, in the logarithm of the rate, this leaves:
                fpr = np.clip(shared.at(map_[mask]), low, high)
                areas[i] = np.log(high / fpr).sum() / (math.log(high / low) * n_defective)
        np.minimum(areas, 1.0, out=areas)
        return areas

    @cached_property
    def _levels(self) -> _Levels:
        """The distinct values of defective pixels, and how many pixels reach them."""
        self._check()
        values, n_defective = np.unique(self._defective, return_counts=True)
        n_above, n_at = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
        for pixels in self._of_normal_images + self._of_defective_images:
            n_above += len(pixels) - np.searchsorted(pixels.values, values, side="right")
            n_at += len(pixels) - np.searchsorted(pixels.values, values, side="left")
        return _Levels(values[::-1], n_defective[::-1], n_above[::-1], n_at[::-1], self.n_normal)

    @property
    def _defective(self) -> _Map:
        """The values of all defective pixels, image by image."""
        return np.concatenate([map_[mask] for mask, map_, n in self._images if n])

    @cached_property
    def _pro_curve(self) -> tuple[_Floats, _Floats]:
        """The false-positive rates, rising from 0 to 1, and the PRO at each of them."""
        levels = self._levels
        # PRO changes only at the values of defective pixels. Between two of them the curve is
        # level, so the points there lie on it and need not be made: a point just before each such
        # value and a point at it describe the whole curve, and the many normal pixels are sorted
        # but never weighed.
        _, inverse = np.unique(self._defective, return_inverse=True)
        weights = _region_weights([mask for mask, _, n in self._images if n])
        gained = np.bincount(inverse.ravel(), weights=weights)[::-1]
        overlap = np.minimum(np.cumsum(gained), 1.0)
        overlap[-1] = 1.0  # every region is found whole, whatever the sum was rounded to

        fpr = np.empty(2 * len(overlap) + 2)
        pro = np.empty_like(fpr)
        fpr[0], fpr[-1] = 0.0, 1.0
        pro[:2], pro[-1] = 0.0, 1.0
        fpr[1:-1:2] = levels.n_above / levels.n_normal
        fpr[2:-1:2] = levels.n_at / levels.n_normal
        pro[3:-1:2] = overlap[:-1]
        pro[2:-1:2] = overlap
        return fpr, pro

    def _shared_fpr(self, low: float, high: float) -> _SharedFpr:
        """Return the mean false-positive rate of the normal images, where it is below `high`."""
        maps = [image.map_ for pixels in self._of_normal_images for image in pixels.images]
        maps = [map_ for map_ in maps if map_.size]
        n_pixels = sum(map_.size for map_ in maps)
        if n_pixels * low < 1:
            raise ParameterError(
                f"masks: expected at least {math.ceil(round(1 / low, 3)):,} pixels in images "
                f"without a defect, of which a false-positive rate of {low:g} is one pixel, got "
                f"{n_pixels:,} in {len(maps)} images"
            )
        # So many of the largest values, wherever they are, make a mean rate of `high`.
        n_largest = math.ceil(high * len(maps) * max(map_.size for map_ in maps))
        n_largest = min(n_largest, n_pixels)
        tops = np.concatenate([pixels.values[-n_largest:] for pixels in self._of_normal_images])
        least = np.partition(tops, -n_largest)[-n_largest]
        kept = [map_[map_ >= least] for map_ in maps]
        weights = np.repeat(
            [1 / (len(maps) * map_.size) for map_ in maps], [len(values) for values in kept]
        )
        values = np.concatenate(kept)
        order = np.argsort(values)
        rates = np.append(np.cumsum(weights[order[::-1]])[::-1], 0.0)
        return _SharedFpr(values[order], rates)

    def _check(self) -> None:
        if self.n_defective == 0 or self.n_normal == 0:
            raise ParameterError(
                "masks: expected at least one defective and one normal pixel, "
                f"got {self.n_defective} defective and {self.n_normal} normal"
            )


class _Image(NamedTuple):
    mask: _Mask
    map_: _Map
    n_defective: int


class _Levels(NamedTuple):
    """Thresholds, falling, and for each what has just that value, and what reaches it."""

    thresholds: _Map
    n_defective: _Counts  # defective pixels of just this value
    n_above: _Counts  # normal pixels above it
    n_at: _Counts  # normal pixels at or above it
    n_normal: int  # all normal pixels


class _SharedFpr(NamedTuple):
    """A mean false-positive rate, by threshold."""

    values: _Map  # of normal pixels, rising: all that are at least the first one
    rates: _Floats  # of thresholds at these values, and 0 above the last one

    def at(self, thresholds: _Map) -> _Floats:
        """Return the rate of each threshold; below the first value, the rate there."""
        return self.rates[np.searchsorted(self.values, thresholds, side="left")]


class _NormalPixels:
    """The normal pixels of some images, sorted when they are first needed."""

    def __init__(self, images: list[_Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return sum(image.map_.size - image.n_defective for image in self.images)

    @cached_property
    def values(self) -> _Map:
        """Their values, rising."""
        if not self.images:
            return np.empty(0, np.bool_)  # which gives way to any other type
        values = np.empty(len(self), np.result_type(*(image.map_.dtype for image in self.images)))
        start = 0
        for mask, map_, n_defective in self.images:
            end = start + map_.size - n_defective
            values[start:end] = map_[~mask] if n_defective else map_.ravel()
            start = end
        values.sort()
        return values


def _region_weights(masks: list[_Mask]) -> _Floats:
    """Return a weight for each defective pixel, image by image; they sum to one.

    It is 1 / (number of regions x size of its region).
    """
    from scipy.ndimage import label

    weights: list[_Floats] = []
    n_regions = 0
    for mask in masks:
        regions, found = label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        weights.append(1.0 / sizes[regions[mask]])
        n_regions += found
    return np.concatenate(weights) / n_regions


def _area(fpr: _Floats, pro: _Floats, max_fpr: float) -> float:
    """Return the mean height of the curve from 0 to `max_fpr`."""
    end = int(np.searchsorted(fpr, max_fpr, side="right"))
    if end < len(fpr):
        share = (max_fpr - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        at_limit = pro[end - 1] + share * (pro[end] - pro[end - 1])
        fpr = np.append(fpr[:end], max_fpr)
        pro = np.append(pro[:end], at_limit)
    area = float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1])) / 2)
    return min(area / max_fpr, 1.0)


def _checked_range(fpr_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in fpr_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low < high <= 1:
        raise ParameterError(
            "fpr_range: expected two false-positive rates, the lower one first, above 0 and at "
            f"most 1, got {fpr_range!r}",
            parameter="fpr_range",
        )
    return low, high


def _checked(masks: Arrays, maps: Arrays) -> list[_Image]:
    if len(masks) != len(maps):
        raise ShapeError(
            "masks and maps: expected one map per mask, "
            f"got {len(masks)} masks and {len(maps)} maps"
        )
    return [_checked_image(i, masks[i], maps[i]) for i in range(len(masks))]


def _checked_image(i: int, mask_like: npt.ArrayLike, map_like: npt.ArrayLike) -> _Image:
    mask = _matrix(f"masks[{i}]", mask_like)
    map_ = _matrix(f"maps[{i}]", map_like)
    if mask.dtype != np.bool_:
        raise DTypeError(f"masks[{i}]: expected bool, got {mask.dtype}")
    if map_.dtype.kind not in "biuf":
        raise DTypeError(f"maps[{i}]: expected real numbers, got {map_.dtype}")
    if mask.shape != map_.shape:
        raise ShapeError(
            f"maps[{i}]: expected {mask.shape}, the shape of its mask, got {map_.shape}"
        )
    is_finite = np.isfinite(map_)
    if not is_finite.all():
        row, column = (int(x) for x in np.argwhere(~is_finite)[0])
        raise ParameterError(
            f"maps[{i}]: expected finite numbers, got {map_[row, column]} at ({row}, {column})"
        )
    return _Image(mask, map_, int(np.count_nonzero(mask)))


def _matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            f"{name}: expected shape (height, width), got rows of different lengths"
        ) from error
    if array.ndim != 2:
        raise ShapeError(f"{name}: expected shape (height, width), got {array.shape}")
    return array
