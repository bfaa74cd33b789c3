"""Rectangles of least area around masks, and how much masks overlap."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ParameterError, ShapeError

__all__ = ["RotatedBox", "hull_of", "mask_iou", "rotated_box_of"]


class RotatedBox(NamedTuple):
    """A rectangle in an image, in its pixels.

    `row` and `column` are those of its centre, `height` and `width` its sides before it is turned
    by `angle` degrees counter-clockwise.
    """

    row: float
    column: float
    height: float
    width: float
    angle: float


def rotated_box_of(mask: NDArray[np.bool_], near: float = 0.0) -> RotatedBox:
    """Return the rectangle of least area around all pixels of a mask.

    One side of it lies along a side of their convex hull. Which of its sides is the height is
    free: it is told such that the angle is within 45 degrees of `near`.

    Parameters
    ----------
    mask : ndarray of bool, shape (height, width)
        The pixels; corners of pixels count, not their centres.
    near : float, default 0
        Degrees.

    Raises
    ------
    ParameterError
        If the mask is empty.

    Source
    ------
    Freeman and Shapira, "Determining the minimum-area encasing rectangle for an arbitrary closed
    curve" (1975).

    Examples
    --------
    >>> mask = np.zeros((9, 9), bool)
    >>> mask[2:5, 1:8] = True
    >>> rotated_box_of(mask)
    RotatedBox(row=3.0, column=4.0, height=3.0, width=7.0, angle=0.0)
    >>> rotated_box_of(mask, near=90)
    RotatedBox(row=3.0, column=4.0, height=7.0, width=3.0, angle=90.0)
    """
    corners = hull_of(mask)
    sides = np.roll(corners, -1, axis=0) - corners
    angles = np.arctan2(-sides[:, 0], sides[:, 1]) % (math.pi / 2)
    best: tuple[float, RotatedBox] | None = None
    for angle in np.unique(angles.round(12)).tolist():
        down, right = _axes(angle)
        along = np.stack([corners @ down, corners @ right])
        low, high = along.min(axis=1), along.max(axis=1)
        area = float(np.prod(high - low))
        if best is None or area < best[0] - 1e-9:
            (height, width), (at_down, at_right) = (
                (high - low).tolist(),
                ((low + high) / 2).tolist(),
            )
            row, column = (at_down * down + at_right * right).tolist()
            best = area, RotatedBox(row, column, height, width, math.degrees(angle))
    if best is None:
        raise ParameterError("mask: expected one with pixels, all are 0")
    return _near(best[1], near)


def hull_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the corners, (row, column), of the convex hull of the pixels of a mask, in order.

    Raises
    ------
    ParameterError
        If the mask is empty.
    """
    from scipy.spatial import ConvexHull

    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        raise ParameterError("mask: expected one with pixels, all are 0")
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate(
        [
            np.stack([rows + down, columns], axis=1)
            for down in (-0.5, 0.5)
            for columns in (first - 0.5, last + 0.5)
        ]
    )
    return np.asarray(ends[ConvexHull(ends).vertices], np.float64)


def mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the pixels that both masks have, as a share of those that one of them has.

    Raises
    ------
    ShapeError
        If they differ in shape.

    Examples
    --------
    >>> mask_iou(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.3333333333333333
    >>> mask_iou(np.zeros((1, 2), bool), np.zeros((1, 2), bool))
    1.0
    """
    if one.shape != other.shape:
        raise ShapeError(f"masks: expected two of one shape, got {one.shape} and {other.shape}")
    either = int((one | other).sum())
    return 1.0 if either == 0 else int((one & other).sum()) / either


def _axes(angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the directions, (row, column), of a rectangle's height and width."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([cos, sin]), np.array([-sin, cos])


def _near(box: RotatedBox, near: float) -> RotatedBox:
    quarters = round((near - box.angle) / 90)
    height, width = (box.height, box.width) if quarters % 2 == 0 else (box.width, box.height)
    angle = (box.angle + 90 * quarters + 180) % 360 - 180
    return RotatedBox(box.row, box.column, height, width, angle + 0.0)
