"""A part of an image, turned, shifted and scaled into a frame of its own; and maps on the way back.

A position lies at (row, column); whole numbers are centres of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import ImageArray
from knnspect.errors import ImageError, ParameterError, ShapeError

__all__ = ["AlignedView", "similarity"]

#: What bilinear interpolation reads beyond a position, in pixels, and as many to spare.
_SUPPORT = 2
#: Pixels that are cut out at once.
_MOST_PIXELS = 2**27


def similarity(
    angle: float, scale: float, at: tuple[float, float], to: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the transform that turns and scales about a position, and moves that elsewhere.

    Parameters
    ----------
    angle : float
        Degrees, counter-clockwise.
    scale : float
        Above 0.
    at, to : (float, float)
        A position, and where it moves to.

    Returns
    -------
    ndarray of float64, shape (2, 3)
        Of (row, column, 1) it makes (row, column).

    Examples
    --------
    >>> similarity(90, 2, at=(1, 1), to=(0, 0)) @ [1, 2, 1]
    array([-2.,  0.])
    """
    turn = scale * np.array(
        [
            [math.cos(math.radians(angle)), -math.sin(math.radians(angle))],
            [math.sin(math.radians(angle)), math.cos(math.radians(angle))],
        ]
    )
    if angle % 90 == 0:
        turn = np.rint(turn / scale) * scale
    return np.column_stack([turn, np.asarray(to) - turn @ np.asarray(at)])


@dataclass(frozen=True, eq=False)
class AlignedView:
    """A frame that shows a part of an image upright: the way into it, and back.

    Parameters
    ----------
    size : (int, int)
        Height and width of the image as it came.
    frame : (int, int)
        Height and width of the frame.
    matrix : ndarray of float64, shape (2, 3)
        The affine transform of positions (row, column, 1) in the image to (row, column) in the
        frame.

    Raises
    ------
    ShapeError, ParameterError
        If the matrix has another shape, is not finite, or cannot be inverted.

    Examples
    --------
    >>> view = AlignedView((40, 40), (8, 10), similarity(90, 1, at=(20, 20), to=(3, 4)))
    >>> view.to_frame(20.0, 20.0), view.to_original(3.0, 5.0)
    ((3.0, 4.0), (21.0, 20.0))
    >>> view.cut(np.zeros((40, 40, 3), np.uint8)).shape, view.to_image(np.ones((8, 10))).sum()
    ((8, 10, 3), np.float32(80.0))
    """

    size: tuple[int, int]
    frame: tuple[int, int]
    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        if matrix.shape != (2, 3):
            raise ShapeError(f"matrix: expected shape (2, 3), got {matrix.shape}")
        area = float(np.linalg.det(matrix[:, :2]))
        if not np.isfinite(matrix).all() or abs(area) < 1e-12:
            raise ParameterError(f"matrix: expected one that can be inverted, got {matrix}")
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)

    @property
    def inverse(self) -> NDArray[np.float64]:
        """The transform of positions in the frame to those in the image, shape (2, 3)."""
        return _inverse(self.matrix)

    def to_frame(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the image lie in the frame, which may be outside of it."""
        return _moved(self.matrix, rows, columns)

    def to_original(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Return where positions in the frame lie in the image, which may be outside of it."""
        return _moved(self.inverse, rows, columns)

    def corners(self) -> NDArray[np.float64]:
        """Return where the corners of the frame lie in the image.

        Returns
        -------
        ndarray of float64, shape (4, 2)
            The outer corners of the pixels: top left, top right, bottom right, bottom left.
        """
        bottom, right = self.frame[0] - 0.5, self.frame[1] - 0.5
        rows, columns = np.array([-0.5, -0.5, bottom, bottom]), np.array([-0.5, right, right, -0.5])
        return np.stack(self.to_original(rows, columns), axis=1)

    def with_margin(self, margin: float) -> AlignedView:
        """Return the way to a larger frame.

        Parameters
        ----------
        margin : float
            What it shows beyond each side, as a share of the side.
        """
        height, width = self.frame
        down, right = (round(n * margin) for n in self.frame)
        matrix = self.matrix + np.array([[0, 0, down], [0, 0, right]])
        return replace(self, frame=(height + 2 * down, width + 2 * right), matrix=matrix)

    def cut(self, image: ImageArray) -> ImageArray:
        """Return the frame, cut out of the image.

        Bilinear; where the frame is smaller than what it shows, the image is reduced before, by
        Pillow's Hamming filter. Beyond its border the image goes on with its last pixel.

        Parameters
        ----------
        image : ndarray
            Shape (height, width, 3) of height and width `size`; uint8, or float32 in [0, 1].

        Returns
        -------
        ndarray
            Shape (*frame, 3), of the same type.

        Raises
        ------
        ShapeError
            If the image has another size.
        ImageError
            If the frame would show more than 2^27 pixels.
        """
        if image.shape[:2] != self.size:
            raise ShapeError(
                f"image: expected {self.size[0]} x {self.size[1]} pixels, got {image.shape[:2]}"
            )
        return _resampled(image, self.matrix, self.frame, outside=None)

    def to_image(self, map_: NDArray[Any], outside: float = 0.0) -> NDArray[np.float32]:
        """Return a map of the frame as a map of the image.

        Parameters
        ----------
        map_ : ndarray, shape `frame`
            The map.
        outside : float, default 0
            What pixels of the image have that the frame does not show.

        Returns
        -------
        ndarray of float32, shape `size`
            Bilinear.

        Raises
        ------
        ShapeError
            If the map has another shape than the frame.
        """
        if map_.shape != self.frame:
            raise ShapeError(f"map: expected shape {self.frame}, got {map_.shape}")
        return _resampled(map_.astype(np.float32), self.inverse, self.size, outside)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _moved(matrix: NDArray[np.float64], rows: Any, columns: Any) -> tuple[Any, Any]:
    (a, b, c), (d, e, f) = matrix.tolist()
    return a * rows + b * columns + c, d * rows + e * columns + f


def _resampled(
    image: NDArray[Any],
    matrix: NDArray[np.float64],
    size: tuple[int, int],
    outside: float | None,
) -> NDArray[Any]:
    """Return an image moved by a transform, of another size.

    Beyond its border it has the value `outside`; None: its last pixel.
    """
    back = _inverse(matrix)
    shrinks = math.sqrt(abs(np.linalg.det(back[:, :2])))
    # Only what is seen counts; without a value for the outside it goes on beyond the image.
    top, left, bottom, right = _seen(back, size, _SUPPORT + math.ceil(shrinks))
    if outside is not None:
        top, left = max(top, 0), max(left, 0)
        bottom, right = min(bottom, image.shape[0]), min(right, image.shape[1])
        if bottom <= top or right <= left:
            return np.full(size, outside, image.dtype)
    if (bottom - top) * (right - left) > _MOST_PIXELS:
        raise ImageError(
            f"expected a frame that shows at most {_MOST_PIXELS} pixels of the image, got one of "
            f"{bottom - top} x {right - left}"
        )
    rows = np.arange(top, bottom).clip(0, image.shape[0] - 1)
    columns = np.arange(left, right).clip(0, image.shape[1] - 1)
    seen = image[rows][:, columns]
    # Pillow's positions begin at the corners of pixels, and have x before y.
    reduced = [max(1, round(n / shrinks)) if shrinks > 1 else n for n in seen.shape[:2]]
    per_pixel = np.array(reduced) / seen.shape[:2]
    turn = back[:, :2] * per_pixel[:, None]
    offset = (back[:, 2] + 0.5 - (top, left)) * per_pixel - turn @ (0.5, 0.5)
    coefficients = (turn[1, 1], turn[1, 0], offset[1], turn[0, 1], turn[0, 0], offset[0])

    def move(part: NDArray[Any]) -> NDArray[Any]:
        picture = Image.fromarray(np.ascontiguousarray(part))
        if shrinks > 1:  # unlike means of areas, this filter moves nothing within a pixel
            picture = picture.resize((reduced[1], reduced[0]), Image.Resampling.HAMMING)
        return np.asarray(
            picture.transform(
                (size[1], size[0]),
                Image.Transform.AFFINE,
                coefficients,
                Image.Resampling.BILINEAR,
                fillcolor=None if outside is None else outside,
            )
        )

    if image.ndim == 2 or image.dtype == np.uint8:
        return move(seen)
    return np.stack([move(seen[..., channel]) for channel in range(3)], axis=-1)


def _seen(
    back: NDArray[np.float64], size: tuple[int, int], margin: int
) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of what an image of this size shows, with a margin."""
    rows, columns = np.array([0, 0, size[0], size[0]]), np.array([0, size[1], 0, size[1]])
    at_rows, at_columns = _moved(back, rows - 0.5, columns - 0.5)
    top, left = math.floor(at_rows.min()) - margin, math.floor(at_columns.min()) - margin
    bottom, right = math.ceil(at_rows.max()) + margin, math.ceil(at_columns.max()) + margin
    return top, left, bottom, right
