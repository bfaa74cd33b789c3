"""A map laid over its image, and a picture written to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from knnspect.data.geometry import strips
from knnspect.errors import DTypeError, ParameterError, ShapeError
from knnspect.report.colors import colorize
from knnspect.report.marks import Marks
from knnspect.report.png import write_png

__all__ = ["overlay", "overlay_strips", "save_png", "to_rgb"]

# How much of the image's own colour is taken away, so that the map's colours stand out.
_DESATURATION = 0.5
# The opacity of the map's colour rises smoothly between these two shares of the scale. Below the
# first the image is as it was; even at the second it shines through a little.
_OPACITY_FROM, _OPACITY_TO = 0.1, 0.9
_OPACITY_MAX = 0.85
# Where a threshold decides, the opacity above it: the colour is seen, and the image through it.
_OPACITY_DECIDED = 0.3, 0.6
# Rec. 601: the weights of red, green and blue in what the eye calls bright.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def overlay(
    image: npt.NDArray[Any],
    map: npt.NDArray[Any],  # noqa: A002 - the word for it everywhere in knnspect
    scale: float,
    marks: Marks | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the image with its map laid over it in colour.

    Where the map is small the image is seen as it is, with paler colours. The larger the map's
    value, the brighter its colour and the more that colour covers the image.

    Parameters
    ----------
    image
        Shape ``(height, width, 3)`` or, for grey, ``(height, width)``: uint8, or floating with
        values in [0, 1].
    map
        Shape ``(height, width)``, real and finite.
    scale
        The value of the map that gets the strongest colour; larger values get the same one, and
        values below 0 get the colour of 0. Give images that are to be compared the same scale.
    marks
        A decision: then nothing is coloured but the pixels above its threshold, regions are
        outlined and numbered, and the verdict stands in a corner. `Marks.of` returns those of a
        prediction.

    Returns
    -------
    numpy.ndarray
        Shape ``(height, width, 3)``, uint8, red, green, blue.

    Raises
    ------
    ShapeError
        If the image has another shape than these, or the map has not the size of the image.
    DTypeError
        If the image is neither uint8 nor floating, or the map does not hold real numbers.
    ParameterError
        If the image is floating and has a value outside [0, 1], the map has a value that is not
        finite, or `scale` is not a positive finite number.

    Examples
    --------
    >>> grey = np.full((1, 2), 100, dtype=np.uint8)
    >>> overlay(grey, np.array([[0.0, 5.0]]), scale=5.0).tolist()
    [[[100, 100, 100], [232, 225, 142]]]
    """
    picture = np.empty((*np.shape(map)[:2], 3), np.uint8)
    for rows, strip in overlay_strips(image, map, scale, marks):
        picture[rows] = strip
    return picture


def overlay_strips(
    image: npt.NDArray[Any],
    map: npt.NDArray[Any],  # noqa: A002 - the word for it everywhere in knnspect
    scale: float,
    marks: Marks | None = None,
) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
    """Return what `overlay` returns, some rows at a time, so that large images need little memory.

    Parameters
    ----------
    image, map, scale, marks
        As for `overlay`, which also says what is raised.

    Returns
    -------
    iterator of (slice, ndarray)
        The next rows, and the picture there, shape ``(n_rows, width, 3)``, uint8.

    Examples
    --------
    >>> black = np.zeros((3000, 1000, 3), np.uint8)
    >>> for rows, strip in overlay_strips(black, np.zeros((3000, 1000)), scale=1.0):
    ...     print(rows.start, strip.shape)
    0 (1048, 1000, 3)
    1048 (1048, 1000, 3)
    2096 (904, 1000, 3)
    """
    array = _checked(image)
    values = np.asarray(map)
    if values.shape != array.shape[:2]:
        raise ShapeError(
            f"map: expected {array.shape[:2]}, the size of its image, got {values.shape}"
        )
    if values.dtype.kind not in "biuf":
        raise DTypeError(f"map: expected real numbers, got {values.dtype}")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):  # NaN, if there is one
        raise ParameterError("map: expected finite numbers, got NaN or an infinity")
    if not (np.isfinite(scale) and scale > 0):
        raise ParameterError(f"scale: expected a positive finite number, got {scale}")
    return _strips(array, values, scale, marks)


def _strips(
    image: npt.NDArray[Any], values: npt.NDArray[Any], scale: float, marks: Marks | None
) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
    plaques = [] if marks is None else marks.plaques(values)
    for rows in strips(image.shape):
        strip = _pale(image[rows])
        if marks is None:
            _tint(strip, values[rows], scale)
        elif (above := values[rows] > marks.threshold).any():
            _tint(strip, values[rows], scale, above)
        picture = np.rint(strip).astype(np.uint8)
        if marks is not None:
            marks.draw(picture, rows, values, plaques)
        yield rows, picture


def _pale(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return an image with paler colours."""
    base = _rgb(image).astype(np.float32)
    grey = (base @ _LUMINANCE)[..., np.newaxis]
    base += _DESATURATION * (grey - base)
    return base


def _tint(
    base: npt.NDArray[np.float32],
    values: npt.NDArray[Any],
    scale: float,
    above: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Lay the colours of a map over an image; if a threshold decides, where the map is above it."""
    # Divided in float64: a float16 map with a small scale would overflow.
    share = np.clip(values / np.float64(scale), 0, 1).astype(np.float32)
    opacity = _opacity(share)
    if above is not None:
        opacity = np.where(above, np.clip(opacity, *_OPACITY_DECIDED), np.float32(0))
    base += opacity[..., np.newaxis] * (colorize(share) - base)


def to_rgb(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an image as red, green, blue.

    Parameters
    ----------
    image
        Shape ``(height, width, 3)`` or, for grey, ``(height, width)``: uint8, or floating with
        values in [0, 1].

    Returns
    -------
    numpy.ndarray
        Shape ``(height, width, 3)``, uint8. Not always a copy.

    Raises
    ------
    ShapeError
        If the image has another shape than these, or no pixel.
    DTypeError
        If the image is neither uint8 nor floating.
    ParameterError
        If the image is floating and has a value outside [0, 1].

    Examples
    --------
    >>> to_rgb(np.array([[0.0, 1.0]], dtype=np.float32)).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    return _rgb(_checked(image))


def _checked(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image as it was given, if it can become red, green, blue."""
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (3,)):
        raise ShapeError(
            "image: expected shape (height, width, 3), or (height, width) for grey, "
            f"got {array.shape}"
        )
    if array.dtype.kind == "f":
        # NaN fails both comparisons, so it is caught here as well.
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):
            raise ParameterError(
                "image: expected values in [0, 1] when it is floating, "
                f"got values from {low} to {high}"
            )
    elif array.dtype != np.uint8:
        raise DTypeError(f"image: expected uint8 or floating, got {array.dtype}")
    return array


def _rgb(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype.kind == "f":
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.ndim == 2:
        array = np.repeat(array[..., np.newaxis], 3, axis=2)
    return array


def save_png(array: npt.NDArray[np.uint8], path: str | os.PathLike[str]) -> None:
    """Write a picture to a PNG file, all of it or nothing.

    The picture is written beside its place and then put there in one step. A reader sees the
    file that was there before, or the new one, and a failure leaves the old one as it was.

    Parameters
    ----------
    array
        Shape ``(height, width, 3)`` or, for grey, ``(height, width)``: uint8.
    path
        Where to. The folder has to exist; a file of that name is replaced.

    Raises
    ------
    ShapeError
        If the array has another shape than these, or no pixel.
    DTypeError
        If the array is not uint8.
    StoreError
        If the file cannot be written: no such folder, no permission, no space.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_png(np.zeros((2, 3, 3), dtype=np.uint8), f"{folder}/black.png")
    ...     with Image.open(f"{folder}/black.png") as picture:
    ...         picture.size
    (3, 2)
    """
    if array.dtype != np.uint8:
        raise DTypeError(f"array: expected uint8, got {array.dtype}")
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (3,)):
        raise ShapeError(
            "array: expected shape (height, width, 3), or (height, width) for grey, "
            f"got {array.shape}"
        )
    size = (array.shape[0], array.shape[1])
    write_png((array[rows] for rows in strips(size)), size, path, n_channels=array[0, 0].size)


def _opacity(share: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return how much of the map's colour is seen, for shares of the scale in [0, 1]."""
    t = np.clip((share - _OPACITY_FROM) / (_OPACITY_TO - _OPACITY_FROM), 0, 1)
    smooth: npt.NDArray[np.float32] = _OPACITY_MAX * (t * t * (3 - 2 * t))
    return smooth
