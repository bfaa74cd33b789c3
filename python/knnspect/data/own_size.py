"""Images at their own size: how they meet the network pixel for pixel, and window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.data.axes import Axis
from knnspect.data.decoded import ImageArray
from knnspect.data.geometry import MAX_INPUT, Geometry
from knnspect.errors import DTypeError, ImageError, ShapeError

__all__ = ["OwnPixels", "OwnSize", "geometry_of", "in_windows"]


def geometry_of(
    image_size: tuple[int, int], resize: Any, interpolation: str, multiple: int = 1
) -> Geometry:
    """Return the geometry that parameters describe; `resize` may also be ``"own"``.

    Raises
    ------
    ParameterError
        As `Geometry`.
    """
    kind = OwnSize if resize == "own" else Geometry
    return kind(image_size, resize, interpolation, multiple)


def in_windows(image: ImageArray, geometry: Geometry) -> NDArray[np.float32] | OwnPixels:
    """Return an image as the network sees it: at its own size as `OwnPixels`, else prepared."""
    return geometry.in_windows(image) if isinstance(geometry, OwnSize) else geometry.prepare(image)


@dataclass(frozen=True)
class OwnSize(Geometry):
    """Leaves images as large as they are, but for what makes their sides multiples.

    No pixel is resampled. Where a side is no multiple of `multiple`, the outermost pixels are
    repeated, half of what lacks at either end. `image_size` is the size for which the blur of maps
    is given.

    Examples
    --------
    >>> geometry = OwnSize((224, 224), multiple=4)
    >>> geometry.input_size((5, 8))
    (8, 8)
    >>> image = np.arange(5, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(3, 2)
    >>> (geometry.prepare(image)[0, :, 0] * 255).round().astype(int).tolist()
    [0, 0, 1, 2, 3, 4, 4, 4]
    """

    resize: Literal["own"] = "own"  # type: ignore[assignment]

    resizes: ClassVar[tuple[str, ...]] = ("own",)
    one_grid: ClassVar[str] = 'with resize="own", as with tiles, images need one size'

    @property
    def largest_input(self) -> tuple[int, int]:
        """Height and width that no input of the network exceeds."""
        return MAX_INPUT, MAX_INPUT

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of an image, each side rounded up to a multiple.

        Raises
        ------
        ImageError
            If that has more than 2^28 pixels.
        """
        height, width = (int(side) + -int(side) % self.multiple for side in size)
        if height * width > MAX_INPUT:
            raise ImageError(
                f"of {size[0]} x {size[1]} pixels it is too large: expected at most {MAX_INPUT} "
                "pixels"
            )
        return height, width

    def prepare(self, image: ImageArray) -> NDArray[np.float32]:
        """Return an image as the network sees it; see `Geometry.prepare`."""
        pixels = self.in_windows(image)
        return pixels.window(*map(slice, pixels.shape[1:]))

    def in_windows(self, image: ImageArray) -> OwnPixels:
        """Return an image that gives windows of what `prepare` returns.

        Raises
        ------
        ShapeError, DTypeError, ImageError
            As `prepare`.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ShapeError(
                f"prepare: expected an image of shape (height, width, 3), got {image.shape}"
            )
        if image.dtype not in (np.uint8, np.float32):
            raise DTypeError(f"prepare: expected uint8 or float32, got {image.dtype.name}")
        return OwnPixels(image, *self._fit((image.shape[0], image.shape[1])))

    def _fit(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        (height, width), into = size, self.input_size(size)
        return Axis(height, height, into[0], height), Axis(width, width, into[1], width)


class OwnPixels:
    """An image as the network will see it, of which windows are made when they are asked for.

    Parameters
    ----------
    image : ndarray of uint8 or float32, shape (height, width, 3)
        The image. It is not copied.
    rows, columns : Axis
        Where it lies in the network's input.

    Attributes
    ----------
    shape : (int, int, int)
        Channels, height and width of the input.
    """

    def __init__(self, image: ImageArray, rows: Axis, columns: Axis) -> None:
        self._image, self._axes = image, (rows, columns)
        self.shape = (3, rows.n_prepared, columns.n_prepared)

    def window(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return a part of the input, shape (3, height, width), float32 in [0, 1]."""
        at = [
            (np.arange(n)[span] - axis.target.start).clip(0, axis.n_original - 1)
            for n, axis, span in zip(self.shape[1:], self._axes, (rows, columns), strict=True)
        ]
        # Whole rows and columns are views; a few pixels are repeated.
        part = self._image[at[0][0] : at[0][-1] + 1, at[1][0] : at[1][-1] + 1]
        part = part[at[0] - at[0][0]] if len(at[0]) != part.shape[0] else part
        part = part[:, at[1] - at[1][0]] if len(at[1]) != part.shape[1] else part
        pixels = np.ascontiguousarray(part.transpose(2, 0, 1), np.float32)
        if self._image.dtype == np.uint8:
            pixels /= 255
        return pixels
