"""Checks of what metrics are given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError

__all__ = ["flags", "threshold_value", "vector"]


def vector(name: str, values: npt.ArrayLike, length: str = "n_images") -> npt.NDArray[Any]:
    """Return real numbers in one dimension as an array.

    >>> vector("scores", [1, 2]).tolist()
    [1, 2]
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            f"{name}: expected one number per image, got nested sequences of different lengths",
            parameter=name,
        ) from error
    if array.ndim != 1:
        raise ShapeError(f"{name}: expected shape ({length},), got {array.shape}", parameter=name)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{name}: expected real numbers, got {array.dtype}", parameter=name)
    return array


def flags(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return bool, or 0 and 1, in one dimension as an array of bool.

    >>> flags("is_defective", [0, 1]).tolist()
    [False, True]
    """
    array = vector(name, values)
    strange = np.flatnonzero((array != 0) & (array != 1))
    if len(strange):
        where = strange[0]
        raise ParameterError(
            f"{name}: expected bool, or 0 and 1, got {array[where]} at index {where}",
            parameter=name,
        )
    return array.astype(np.bool_)


def threshold_value(threshold: float) -> np.float64:
    """Return a threshold as float64, which NumPy compares exactly with scores of any type.

    >>> float(threshold_value(0.1)), bool(np.float32(0.1) >= threshold_value(0.1000000001))
    (0.1, True)
    """
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        raise ParameterError(
            f"threshold: expected a number, got {threshold!r}", parameter="threshold"
        )
    exact: np.float64 = np.float64(value)
    return exact
