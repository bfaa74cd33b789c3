"""Places of an image that are anomalous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.known_defects import KnownDefect
from knnspect.views import Box

__all__ = ["AnomalousRegion", "regions_of"]


@dataclass(frozen=True)
class AnomalousRegion:
    """A connected part of an image whose pixels are anomalous.

    Parameters
    ----------
    box : Box
        The smallest box that holds it, in pixels of the image as it came.
    area : int
        Its number of pixels.
    peak : (int, int)
        Row and column of its largest value.
    peak_value : float
        The map there.
    p_value : float
        How often a normal image has a pixel with a value as large, anywhere.
    known_defect : KnownDefect, optional
        The rejected defect that looks most like its peak, if one does; see `Prediction`.
    """

    box: Box
    area: int
    peak: tuple[int, int]
    peak_value: float
    p_value: float
    known_defect: KnownDefect | None = None


def regions_of(
    map_: NDArray[np.float32], mask: NDArray[np.bool_], p_value: Callable[[float], float]
) -> list[AnomalousRegion]:
    """Return the connected parts of a mask, those with the largest value first.

    Pixels that touch at a side or a corner are connected.

    Parameters
    ----------
    map_ : ndarray of float32, shape (height, width)
        The map of an image.
    mask : ndarray of bool, shape (height, width)
        Which of its pixels are anomalous.
    p_value : callable
        Returns the p-value of a map value.

    Examples
    --------
    >>> map_ = np.zeros((4, 6), np.float32)
    >>> map_[0, 1], map_[1, 2], map_[3, 5] = 5, 7, 9
    >>> first, second = regions_of(map_, map_ > 4, lambda value: 1 / value)
    >>> first.peak, first.area, second.box, second.peak_value
    ((3, 5), 1, Box(top=0, left=1, bottom=2, right=3), 7.0)
    """
    if not mask.any():
        return []
    from scipy import ndimage

    # Of the part that has any, since labels take four times the memory of a mask.
    top, bottom = _span(mask, axis=1)
    left, right = _span(mask, axis=0)
    labels, _ = ndimage.label(mask[top:bottom, left:right], np.ones((3, 3), int))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        box = Box(top + rows.start, left + columns.start, top + rows.stop, left + columns.stop)
        values = np.where(inside, map_[box.top : box.bottom, box.left : box.right], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        peak = (box.top + int(row), box.left + int(column))
        value = float(map_[peak])
        regions.append(AnomalousRegion(box, int(inside.sum()), peak, value, p_value(value)))
    return sorted(regions, key=lambda region: (-region.peak_value, region.peak))


def _span(mask: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """Return from the first to behind the last row (axis 1) or column (axis 0) that is marked."""
    places = np.flatnonzero(mask.any(axis=axis))
    return int(places[0]), int(places[-1]) + 1
