"""Images turned, mirrored, brighter and darker, and the way of positions back.

A position lies at (row, column); whole numbers are centres of pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import ImageArray
from knnspect.errors import ImageError

__all__ = [
    "brightened",
    "mirrored",
    "moves_pixels",
    "reduced",
    "turned",
    "turned_back",
    "turned_positions",
]

#: What bicubic interpolation reads beyond a position, in pixels.
_SUPPORT = 2
#: Pixels that an image may have with its reflections, for as many times its own there is no limit.
_MOST_PIXELS, _MOST_TIMES = 2**26, 4


def mirrored(image: ImageArray) -> ImageArray:
    """Return an image with left and right exchanged."""
    return image[:, ::-1]


def brightened(image: ImageArray, factor: float) -> ImageArray:
    """Return an image with its values multiplied; what exceeds white becomes white.

    >>> brightened(np.array([[[100, 200, 250]]], np.uint8), 1.2).tolist()
    [[[120, 240, 255]]]
    """
    if factor == 1:
        return image
    if image.dtype == np.uint8:
        values = np.rint(np.arange(256) * factor).clip(0, 255).astype(np.uint8)
        return _by_channel(image, lambda part: values[part])
    return _by_channel(image, lambda part: (part * np.float32(factor)).clip(0, 1))


def reduced(image: ImageArray, image_size: tuple[int, int]) -> ImageArray:
    """Return an image as small as it can be without losing detail that the network sees.

    It keeps twice the resolution of the network's input at least, and exactly its proportions; so
    that a turn costs no more than it must.

    >>> reduced(np.zeros((1024, 2048, 3), np.uint8), (224, 224)).shape
    (512, 1024, 3)
    """
    height, width = image.shape[:2]
    most = min(height // (2 * image_size[0]), width // (2 * image_size[1]))
    common = math.gcd(height, width)
    factor = next((n for n in range(most, 1, -1) if common % n == 0), 1)
    if factor == 1:
        return image
    size = (width // factor, height // factor)
    # Lanczos leaves what the network's input can show as it is, where a mean would blur it.
    return _by_pillow(image, lambda part: part.resize(size, Image.Resampling.LANCZOS))


def moves_pixels(angle: float, size: tuple[int, int]) -> bool:
    """Return whether a turn moves pixels and changes none: quarters of squares, and halves.

    >>> moves_pixels(90, (5, 5)), moves_pixels(90, (5, 7)), moves_pixels(180, (5, 7))
    (True, False, True)
    """
    return angle % 180 == 0 or (angle % 90 == 0 and size[0] == size[1])


def turned(image: ImageArray, angle: float) -> ImageArray:
    """Return an image turned about its centre, of the same height and width.

    Bicubic; quarter turns of squares and half turns move pixels and change none. What comes from
    outside of the image is its reflection at the border (without repeating the last pixel).

    Parameters
    ----------
    image : ndarray
        Shape (height, width, 3), uint8, or float32 in [0, 1].
    angle : float
        Degrees, counter-clockwise.

    Raises
    ------
    ImageError
        If it is so long and narrow that its reflections would take too much memory.

    Examples
    --------
    >>> image = np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), 3, axis=2)
    >>> turned(image, 90)[..., 0].tolist()
    [[1, 3], [0, 2]]
    """
    height, width = image.shape[:2]
    if moves_pixels(angle, (height, width)):
        return np.rot90(image, int(angle // 90))
    cos, sin = _cos_and_sin(angle)
    rows, columns = (
        max(0, math.ceil(abs(cos) * own / 2 + abs(sin) * other / 2 - own / 2)) + _SUPPORT
        for own, other in ((height, width), (width, height))
    )
    n_pixels = (height + 2 * rows) * (width + 2 * columns)
    if n_pixels > max(_MOST_PIXELS, _MOST_TIMES * height * width):
        raise ImageError(
            f"expected an image that can be turned, got one of {height} x {width} pixels, which is "
            "too long and narrow: use it without rotations"
        )
    # Pillow's positions begin at the corner of a pixel.
    matrix = (
        *(cos, -sin, columns + width / 2 - cos * width / 2 + sin * height / 2),
        *(sin, cos, rows + height / 2 - sin * width / 2 - cos * height / 2),
    )

    def turn(part: Image.Image) -> Image.Image:
        pixels = np.asarray(part)
        padding = [(rows, rows), (columns, columns), (0, 0)][: pixels.ndim]
        padded = Image.fromarray(np.pad(pixels, padding, mode="reflect"))
        bicubic = Image.Resampling.BICUBIC
        return padded.transform((width, height), Image.Transform.AFFINE, matrix, bicubic)

    return _by_pillow(image, turn)


def turned_back(
    rows: NDArray[np.float64], columns: NDArray[np.float64], angle: float, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where positions of a turned image were before.

    Parameters
    ----------
    rows, columns : ndarray of float64
        Positions in the turned image, of shapes that go together.
    angle : float
        By how many degrees it was turned.
    size : (int, int)
        Height and width of the image.

    Returns
    -------
    tuple of ndarray of float64
        Rows and columns in the image; of a reflection, those of what was reflected.
    """
    at_rows, at_columns = turned_positions(rows, columns, -angle, size)
    return _reflected(at_rows, size[0]), _reflected(at_columns, size[1])


def turned_positions(
    rows: NDArray[np.float64], columns: NDArray[np.float64], angle: float, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where positions of an image are when it is turned; they may lie outside of it.

    The parameters are those of `turned_back`, the other way round.

    >>> turned_positions(np.array([0.0]), np.array([3.0]), 90, (4, 4))
    (array([0.]), array([0.]))
    """
    cos, sin = _cos_and_sin(angle)
    middle_row, middle_column = (size[0] - 1) / 2, (size[1] - 1) / 2
    down, right = rows - middle_row, columns - middle_column
    return middle_row - sin * right + cos * down, middle_column + cos * right + sin * down


def _cos_and_sin(angle: float) -> tuple[float, float]:
    """Return cosine and sine of degrees, exactly 0 and 1 where they are."""
    if angle % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(angle // 90) % 4]
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def _reflected(at: NDArray[np.float64], n_pixels: int) -> NDArray[np.float64]:
    if n_pixels == 1:
        return np.zeros_like(at)
    along = np.abs(at) % (2 * (n_pixels - 1))
    found: NDArray[np.float64] = np.minimum(along, 2 * (n_pixels - 1) - along)
    return found


def _by_channel(image: ImageArray, change: Any) -> ImageArray:
    """Return an image changed value by value; of a grey one, which has one channel, that alone."""
    if image.strides[2] != 0:
        return change(image)  # type: ignore[no-any-return]
    grey = change(image[..., :1])
    return np.broadcast_to(grey, image.shape)


def _by_pillow(image: ImageArray, change: Any) -> ImageArray:
    """Return an image changed by a function of Pillow images: of colours, or of one channel."""
    is_grey = image.strides[2] == 0  # three times the same memory
    if image.dtype == np.uint8 and not is_grey:
        return np.asarray(change(Image.fromarray(np.ascontiguousarray(image))))
    n_channels = 1 if is_grey else 3
    parts = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(image[..., channel]))))
        for channel in range(n_channels)
    ]
    if image.dtype != np.uint8:  # bicubic overshoots at edges
        parts = [part.clip(0, 1) for part in parts]
    changed = np.stack(parts, axis=-1)
    return changed if n_channels == 3 else np.broadcast_to(changed, (*changed.shape[:2], 3))
