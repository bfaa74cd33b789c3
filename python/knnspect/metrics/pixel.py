"""Metrics over pixels: one mask and one map per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError

__all__ = ["aupro", "pixel_auroc"]

_Arrays: TypeAlias = Sequence[npt.ArrayLike] | npt.NDArray[Any]
_Mask: TypeAlias = npt.NDArray[np.bool_]
_Map: TypeAlias = npt.NDArray[Any]


def pixel_auroc(masks: _Arrays, maps: _Arrays) -> float:
    """Return the area under the ROC curve of all pixels of all images.

    Every pixel counts the same, so large defects weigh more than small ones; see :func:`aupro`.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.

    Returns
    -------
    float
        In [0, 1]: 1 when every defective pixel lies above every normal one, 0.5 when the maps say
        nothing.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, or there is no defective or no normal pixel.

    Examples
    --------
    >>> mask = [[True, False], [False, False]]
    >>> pixel_auroc([mask], [[[0.9, 0.1], [0.2, 0.9]]])
    0.8333333333333334
    """
    pairs = _checked(masks, maps)
    normal = np.concatenate([map_[~mask] for mask, map_ in pairs])
    defective = np.concatenate([map_[mask] for mask, map_ in pairs])
    # Counting pairs, not making the curve: over the millions of pixels of a test set this is many
    # times faster than scikit-learn's function, and exact, as the counts are whole numbers.
    normal.sort()
    defective.sort()  # the search is faster when its keys come in order
    n_below = int(np.searchsorted(normal, defective, side="left").sum())
    n_not_above = int(np.searchsorted(normal, defective, side="right").sum())
    return (n_below + n_not_above) / (2 * len(normal) * len(defective))


def aupro(masks: _Arrays, maps: _Arrays, max_fpr: float = 0.3) -> float:
    """Return the area under the curve of per-region overlap (PRO) against false-positive rate.

    At a threshold, the overlap of a region is the share of its pixels whose map value is at
    least the threshold. PRO is the mean overlap of all regions of all images, so a small defect
    counts as much as a large one. The false-positive rate is the share of the normal pixels of
    all images, those without a defect included, whose value is at least the threshold.

    A region is a set of defective pixels of one image that are connected by sides or corners.
    Masks are taken as they are: nothing is dilated. The curve has a point at every distinct value
    of the maps, so it is exact; pixels of equal value pass together. It is integrated by the
    trapezoid rule from 0 to `max_fpr`, with the last piece cut by linear interpolation, and the
    area is divided by `max_fpr`.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.
    max_fpr
        The false-positive rate up to which the curve is integrated, in (0, 1].

    Returns
    -------
    float
        In [0, 1]: 1 when every defective pixel lies above every normal one. Maps that say nothing
        reach ``max_fpr / 2``.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, there is no defective or no normal pixel, or
        `max_fpr` is outside (0, 1].

    Source
    ------
    P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: "Uninformed Students: Student-Teacher
    Anomaly Detection with Discriminative Latent Embeddings", CVPR 2020.

    Examples
    --------
    The region of two pixels is found at once, the single pixel only after one of the four normal
    pixels has passed as well:

    >>> mask = [[True, True, False, False, False, False, True]]
    >>> round(aupro([mask], [[[0.9, 0.8, 0.1, 0.7, 0.2, 0.3, 0.6]]], max_fpr=0.5), 4)
    0.75
    """
    if not 0 < max_fpr <= 1:
        raise ParameterError(f"max_fpr: expected a number above 0 and at most 1, got {max_fpr}")
    pairs = _checked(masks, maps)
    return _area(*_pro_curve(pairs), max_fpr)


def _pro_curve(
    pairs: list[tuple[_Mask, _Map]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the false-positive rates, rising from 0 to 1, and the PRO at each of them."""
    normal = np.concatenate([map_[~mask] for mask, map_ in pairs])
    normal.sort()
    values, weights = _region_values(pairs)

    # PRO changes only at the values of defective pixels. Between two of them the curve is level,
    # so the points there lie on it and need not be made: a point just before each such value and
    # a point at it describe the whole curve, and the many normal pixels are sorted but never
    # weighed.
    thresholds, inverse = np.unique(values, return_inverse=True)
    gained = np.bincount(inverse.ravel(), weights=weights)
    thresholds, gained = thresholds[::-1], gained[::-1]
    overlap = np.minimum(np.cumsum(gained), 1.0)
    overlap[-1] = 1.0  # every region is found whole, whatever the sum was rounded to
    n_before = len(normal) - np.searchsorted(normal, thresholds, side="right")
    n_at = len(normal) - np.searchsorted(normal, thresholds, side="left")

    fpr = np.empty(2 * len(thresholds) + 2)
    pro = np.empty_like(fpr)
    fpr[0], fpr[-1] = 0.0, 1.0
    pro[:2], pro[-1] = 0.0, 1.0
    fpr[1:-1:2] = n_before / len(normal)
    fpr[2:-1:2] = n_at / len(normal)
    pro[3:-1:2] = overlap[:-1]
    pro[2:-1:2] = overlap
    return fpr, pro


def _region_values(
    pairs: list[tuple[_Mask, _Map]],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return the map values of all defective pixels, and weights that sum to one.

    A pixel weighs 1 / (number of regions x size of its region).
    """
    from scipy.ndimage import label

    values: list[npt.NDArray[Any]] = []
    weights: list[npt.NDArray[np.float64]] = []
    n_regions = 0
    for mask, map_ in pairs:
        regions, found = label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        values.append(map_[mask])
        weights.append(1.0 / sizes[regions[mask]])
        n_regions += found
    return np.concatenate(values), np.concatenate(weights) / n_regions


def _area(fpr: npt.NDArray[np.float64], pro: npt.NDArray[np.float64], max_fpr: float) -> float:
    """Return the mean height of the curve from 0 to `max_fpr`."""
    end = int(np.searchsorted(fpr, max_fpr, side="right"))
    if end < len(fpr):
        share = (max_fpr - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        at_limit = pro[end - 1] + share * (pro[end] - pro[end - 1])
        fpr = np.append(fpr[:end], max_fpr)
        pro = np.append(pro[:end], at_limit)
    area = float(np.sum(np.diff(fpr) * (pro[1:] + pro[:-1])) / 2)
    return min(area / max_fpr, 1.0)


def _checked(masks: _Arrays, maps: _Arrays) -> list[tuple[_Mask, _Map]]:
    if len(masks) != len(maps):
        raise ShapeError(
            "masks and maps: expected one map per mask, "
            f"got {len(masks)} masks and {len(maps)} maps"
        )
    pairs = [_checked_pair(i, masks[i], maps[i]) for i in range(len(masks))]
    n_pixels = sum(mask.size for mask, _ in pairs)
    n_defective = sum(int(np.count_nonzero(mask)) for mask, _ in pairs)
    if n_defective in (0, n_pixels):
        raise ParameterError(
            "masks: expected at least one defective and one normal pixel, "
            f"got {n_defective} defective and {n_pixels - n_defective} normal"
        )
    return pairs


def _checked_pair(i: int, mask_like: npt.ArrayLike, map_like: npt.ArrayLike) -> tuple[_Mask, _Map]:
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
    not_finite = np.argwhere(~np.isfinite(map_))
    if len(not_finite):
        row, column = (int(x) for x in not_finite[0])
        raise ParameterError(
            f"maps[{i}]: expected finite numbers, got {map_[row, column]} at ({row}, {column})"
        )
    return mask, map_


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
