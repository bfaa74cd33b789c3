"""How an image meets the network's input size, and how a map finds its way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.axes import Axis
from knnspect.data.decoded import ImageArray
from knnspect.errors import DTypeError, ImageError, ParameterError, ShapeError

__all__ = ["MAX_INPUT", "Geometry", "strips"]

#: Pixels of the largest input of a network; prepared, it takes 3 GiB.
MAX_INPUT = 2**28

#: Pixels of an image from which on its channels are resized one after the other.
_LARGE = 2**24
#: Pixels that are worked on at a time, so that what is needed for them stays small.
_PIXELS_AT_ONCE = 2**20

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def strips(size: tuple[int, ...]) -> Iterator[slice]:
    """Return the rows of an image, some at a time, to be worked on with little memory.

    Parameters
    ----------
    size : tuple of int
        (height, width) of the image.

    Yields
    ------
    slice
        The next rows, about a million pixels.

    Examples
    --------
    >>> [(rows.start, rows.stop) for rows in strips((5, 2**19))]
    [(0, 2), (2, 4), (4, 5)]
    """
    n_rows = max(1, _PIXELS_AT_ONCE // size[1])
    for top in range(0, size[0], n_rows):
        yield slice(top, min(top + n_rows, size[0]))


@dataclass(frozen=True)
class Geometry:
    """The way from an image to the network's input, and from a map back to the image.

    Parameters
    ----------
    image_size : tuple of int
        (height, width) of the network's input.
    resize : {"stretch", "crop", "pad", "shorter"}
        ``"stretch"`` resizes the image to `image_size` and lets its proportions change.
        ``"crop"`` takes the largest part of the image, about its centre, that has the proportions
        of `image_size`, and resizes that; what lies outside is not looked at. ``"pad"`` resizes
        the image to fit inside `image_size`, centres it, and fills the rest with the image's mean
        colour. ``"shorter"`` resizes the image such that its shorter side becomes `image_size`,
        which must be a square, and the longer one what keeps the proportions, rounded to a multiple
        of `multiple`. So the whole image is seen, images of other proportions have another input,
        and the longer side is stretched by less than half of `multiple` pixels.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        Pillow's filter for resizing images. Maps are always brought back bilinearly.
    multiple : int
        What the sides of the input are multiples of; used by ``"shorter"``.

    Raises
    ------
    ParameterError
        A parameter lies outside the values above.

    Examples
    --------
    >>> geometry = Geometry((4, 6), resize="pad")
    >>> geometry.prepare(np.full((10, 10, 3), 255, np.uint8)).shape
    (3, 4, 6)
    >>> geometry.restore(np.ones((4, 6), np.float32), (10, 10)).shape
    (10, 10)
    >>> Geometry((448, 448), "shorter", multiple=14).input_size((700, 1000))
    (448, 644)
    """

    image_size: tuple[int, int]
    resize: Literal["stretch", "crop", "pad", "shorter"] = "stretch"
    interpolation: str = "bicubic"
    multiple: int = 1

    #: The words that `resize` may be.
    resizes: ClassVar[tuple[str, ...]] = ("stretch", "crop", "pad", "shorter")
    #: How the grids of images come to be equal, for messages.
    one_grid: ClassVar[str] = (
        'with resize="stretch", "crop" or "pad" they are, whatever the shapes of images'
    )

    def __post_init__(self) -> None:
        if not _is_size(self.image_size):
            raise ParameterError(
                "image_size: expected (height, width), two whole numbers of at least 1, "
                f"got {self.image_size!r}"
            )
        # Plain numbers in a tuple, so that equal geometries are equal and can be saved as JSON.
        height, width = self.image_size
        object.__setattr__(self, "image_size", (int(height), int(width)))
        if self.resize not in self.resizes:
            raise ParameterError(f"resize: expected one of {self.resizes}, got {self.resize!r}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ParameterError(
                f"interpolation: expected one of {tuple(_INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )
        if not _is_size((self.multiple, self.multiple)):
            raise ParameterError(
                f"multiple: expected a whole number of at least 1, got {self.multiple!r}"
            )
        if self.resize == "shorter" and (height != width or height % self.multiple):
            raise ParameterError(
                f'image_size: expected one number for resize="shorter", the shorter side, a '
                f"multiple of {self.multiple}; got {height} x {width}"
            )

    @property
    def largest_input(self) -> tuple[int, int]:
        """Height and width that no input of the network exceeds."""
        if self.resize != "shorter":
            return self.image_size
        return MAX_INPUT // self.image_size[0], MAX_INPUT // self.image_size[1]

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the network's input for an image.

        Parameters
        ----------
        size : tuple of int
            (height, width) of the image.

        Returns
        -------
        tuple of int
            `image_size`, unless `resize` is ``"shorter"``.

        Raises
        ------
        ImageError
            If it is so long and narrow that its input would have more than 2^28 pixels.
        """
        if self.resize != "shorter":
            return self.image_size
        side, shorter = self.image_size[0], min(size)
        # Whole numbers, halves rounded up, so that no size depends on how a machine rounds.
        unit = 2 * shorter * self.multiple
        height, width = ((2 * n * side + unit // 2) // unit * self.multiple for n in size)
        if height * width > MAX_INPUT:
            raise ImageError(
                f"of {size[0]} x {size[1]} pixels it is too long: with a shorter side of {side} "
                f"its input would have {height} x {width} pixels"
            )
        return height, width

    def prepare(self, image: ImageArray) -> NDArray[np.float32]:
        """Return an image as the network sees it, before the network's own normalisation.

        uint8 images are resized in uint8, as timm does; float32 images in float32.

        Parameters
        ----------
        image : numpy.ndarray
            Shape (height, width, 3), uint8, or float32 in [0, 1], as `read_image` returns it.

        Returns
        -------
        numpy.ndarray
            Shape (3, *input_size), float32 in [0, 1], C-contiguous.

        Raises
        ------
        ShapeError
            The image has another shape, or no pixels.
        DTypeError
            The image is neither uint8 nor float32.
        ImageError
            See `input_size`.

        Examples
        --------
        >>> prepared = Geometry((2, 2)).prepare(np.full((5, 7, 3), 51, np.uint8))
        >>> prepared.shape, prepared.dtype.name, round(float(prepared.max()), 3)
        ((3, 2, 2), 'float32', 0.2)
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ShapeError(
                f"prepare: expected an image of shape (height, width, 3), got {image.shape}"
            )
        if image.dtype not in (np.uint8, np.float32):
            raise DTypeError(f"prepare: expected uint8 or float32, got {image.dtype.name}")
        rows, columns = self._fit((image.shape[0], image.shape[1]))
        part = self._resized(image, rows, columns)
        if part.shape[:2] == (rows.n_prepared, columns.n_prepared):
            return np.ascontiguousarray(part.transpose(2, 0, 1))
        scale = 255 if image.dtype == np.uint8 else 1
        mean = image.mean(axis=(0, 1), dtype=np.float64) / scale
        prepared = np.empty((3, rows.n_prepared, columns.n_prepared), np.float32)
        prepared[:] = mean[:, None, None]
        prepared[:, rows.target, columns.target] = part.transpose(2, 0, 1)
        return prepared

    def restore(self, map: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:  # noqa: A002
        """Return a map of the network's input in the geometry of the original image.

        Bilinear, with half-pixel centres (align_corners=False). A map is sampled, not averaged,
        where the original image is smaller than the input. What ``"crop"`` cut off gets 0,
        since it was not looked at; of ``"pad"`` the border is cut away and does not bleed in.

        Parameters
        ----------
        map : numpy.ndarray
            Shape ``input_size(size)``, floating point.
        size : tuple of int
            (height, width) of the original image.

        Returns
        -------
        numpy.ndarray
            Shape `size`, float32, C-contiguous.

        Raises
        ------
        ShapeError
            The map does not have the shape of the input, or `size` is not two numbers of at
            least 1.

        Examples
        --------
        >>> Geometry((1, 2)).restore(np.array([[0.0, 1.0]]), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
        """
        if not _is_size(size):
            raise ShapeError(f"restore: expected size (height, width), got {size!r}")
        shape = self.input_size(size)
        if map.shape != shape:
            raise ShapeError(f"restore: expected a map of shape {shape}, got {map.shape}")
        rows, columns = (axis.samples() for axis in self._fit(size))
        values = map.astype(np.float32, copy=False)
        restored = np.empty((len(rows.low), len(columns.low)), np.float32)
        for strip in strips(restored.shape):
            # Written as low + (high - low) * weight, a constant stays exactly constant.
            low = values[rows.low[strip]]
            part = low + (values[rows.high[strip]] - low) * rows.weight[strip, None]
            low = part[:, columns.low]
            restored[strip] = low + (part[:, columns.high] - low) * columns.weight
        restored[~rows.seen] = 0
        restored[:, ~columns.seen] = 0
        return restored

    def locate(self, row: int, column: int, size: tuple[int, int]) -> tuple[float, float]:
        """Return where a pixel of the original image lies in the network's input.

        Parameters
        ----------
        row, column : int
            The pixel.
        size : tuple of int
            (height, width) of the original image.

        Returns
        -------
        tuple of float
            Row and column; whole numbers are centres of pixels.

        Examples
        --------
        >>> Geometry((4, 4), resize="crop").locate(2, 5, (4, 8))
        (2.0, 3.0)
        """
        rows, columns = (axis.samples() for axis in self._fit(size))
        return (
            float(rows.low[row] + rows.weight[row]),
            float(columns.low[column] + columns.weight[column]),
        )

    def positions(self, size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where all rows and columns of the original image lie in the network's input.

        Parameters
        ----------
        size : tuple of int
            (height, width) of the original image.

        Returns
        -------
        tuple of ndarray of float64, shapes (height,) and (width,)
            As `locate` gives them; NaN for what was cut off.
        """
        rows, columns = (axis.samples() for axis in self._fit(size))
        of_rows, of_columns = (
            np.where(each.seen, each.low + each.weight.astype(np.float64), np.nan)
            for each in (rows, columns)
        )
        return of_rows, of_columns

    def to_input(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where positions in the original image, also between pixels, lie in the input.

        Parameters
        ----------
        rows, columns : ndarray of float64
            Positions in the original image; whole numbers are centres of pixels.
        size : tuple of int
            (height, width) of the original image.

        Returns
        -------
        tuple of ndarray of float64
            Of the same shapes; NaN for what lies outside of the image, or was cut off.
        """
        of_rows, of_columns = self._fit(size)
        return of_rows.to_input(rows), of_columns.to_input(columns)

    def to_original(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where positions in the network's input lie in the original image.

        The way back from `to_input`, of the same parameters; NaN for what ``"pad"`` filled.

        Examples
        --------
        >>> rows, columns = Geometry((4, 4), resize="crop").to_original(
        ...     np.array([0.0]), np.array([0.0, 3.0]), (8, 16)
        ... )
        >>> rows.tolist(), columns.tolist()
        ([0.5], [4.5, 10.5])
        """
        of_rows, of_columns = self._fit(size)
        return of_rows.to_original(rows), of_columns.to_original(columns)

    def _fit(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        """Return which part of an image lies where in the network's input, by rows and columns."""
        height, width = size
        to_height, to_width = self.input_size(size)
        from_height, from_width = float(height), float(width)
        taller = height * to_width >= width * to_height  # than the proportions of image_size
        into_height, into_width = to_height, to_width
        if self.resize == "crop":
            # One division of whole numbers each, so that equal proportions cut off nothing.
            if taller:
                from_height = to_height * width / to_width
            else:
                from_width = to_width * height / to_height
        elif self.resize == "pad":
            if taller:
                into_width = max(1, round(width * to_height / height))
            else:
                into_height = max(1, round(height * to_width / width))
        return (
            Axis(height, from_height, to_height, into_height),
            Axis(width, from_width, to_width, into_width),
        )

    def _resized(self, image: ImageArray, rows: Axis, columns: Axis) -> NDArray[np.float32]:
        size = (columns.into, rows.into)
        box = (columns.start, rows.start, columns.end, rows.end)
        filter_ = _INTERPOLATIONS[self.interpolation]
        is_grey = image.strides[2] == 0  # three times the same memory
        is_large = image.size > 3 * _LARGE  # in Pillow colours of 8 bits have 4 bytes a pixel
        if image.dtype == np.uint8 and not is_grey and not is_large:
            part = np.asarray(Image.fromarray(image).resize(size, filter_, box), np.float32)
        else:
            channels = [
                np.asarray(Image.fromarray(image[..., channel]).resize(size, filter_, box))
                for channel in range(1 if is_grey else 3)
            ]
            part = np.stack(channels * (3 if is_grey else 1), axis=-1).astype(np.float32)
        if image.dtype == np.uint8:
            part /= 255
            return part
        # Bicubic and lanczos overshoot at edges; in uint8 Pillow has clipped that already.
        return part.clip(0, 1)


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(isinstance(n, int | np.integer) and n >= 1 for n in size)
    )
