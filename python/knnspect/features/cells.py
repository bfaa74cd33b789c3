"""What is done to the cells of a map behind the network: averages, and features of norm 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["averaged", "unit_cells"]

Floats = NDArray[Any]  # float32

#: Values that are worked on at a time, so that what is needed for them stays small.
_AT_ONCE = 2**21


def averaged(map_: Floats, patch_size: int) -> Floats:
    """Return the means over patches of cells; cells beyond the border are zero, and count.

    >>> averaged(np.ones((3, 3, 1), np.float32), 3)[..., 0] * 9
    array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """
    height, width, n_channels = map_.shape
    reach, n_rows = patch_size // 2, max(1, _AT_ONCE // (width * n_channels))
    means: Floats = np.empty(map_.shape, np.float32)
    for top in range(0, height, n_rows):
        bottom = min(top + n_rows, height)
        first, last = max(0, top - reach), min(bottom + reach, height)
        beyond = (first - top + reach, bottom + reach - last)
        part = np.pad(map_[first:last], (beyond, (0, 0), (0, 0)))
        part = _sums(_sums(part, patch_size, 0), patch_size, 1, (reach, reach))
        means[top:bottom] = part / np.float32(patch_size**2)
    return means


def _sums(map_: Floats, n: int, axis: int, beyond: tuple[int, int] = (0, 0)) -> Floats:
    """Return the sums of `n` cells each along an axis, which goes on with zeros."""
    padded = np.pad(map_, [beyond if each == axis else (0, 0) for each in range(3)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, n, axis)
    sums: Floats = windows.sum(-1, dtype=np.float32)
    return sums


def unit_cells(map_: Floats) -> Floats:
    """Return a map with the features of each cell of norm 1; zeros stay zeros.

    >>> unit_cells(np.array([[[3, 4], [0, 0]]], np.float32))
    array([[[0.6, 0.8],
            [0. , 0. ]]], dtype=float32)
    """
    largest = np.abs(map_).max(-1, keepdims=True)
    one = np.float32(1)
    map_ = map_ / np.where(largest == 0, one, largest)  # so that no square overflows
    norm = np.sqrt(np.square(map_).sum(-1, keepdims=True))
    unit: Floats = map_ / np.where(norm == 0, one, norm)
    return unit
