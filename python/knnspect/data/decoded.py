"""What a decoder hands over, and how it becomes an image: white level, alpha, orientation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ImageError

__all__ = ["Decoded", "Depth", "ImageArray", "contiguous", "finish", "turned"]

ImageArray: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
"""An image as the rest of the package sees it: (height, width, 3), uint8 or float32 in [0, 1]."""


@dataclass(frozen=True)
class Decoded:
    """An image as its file or array holds it.

    Attributes
    ----------
    pixels : numpy.ndarray
        Shape (height, width, channels): grey or red, green, blue; then alpha, if there is one.
        Integers, floats or bool.
    full : int
        The value that means white by the type or the tags of the file; 1 for floats and bool.
    alpha : {None, "straight", "associated"}
        Whether the last channel is alpha, and whether the colours are multiplied by it already.
    inverted : bool
        Whether 0 is white and `full` black.
    orientation : int
        How the pixels lie, as in EXIF: 1 to 8; another value means upright.
    remark : str
        What a user should know of how the file was read; empty if there is nothing to say.
    are_counts : bool
        Whether a white level applies, as the values are those that a camera counted; it does not
        apply to colours of a palette.
    """

    pixels: NDArray[Any]
    full: int
    alpha: Literal["straight", "associated"] | None = None
    inverted: bool = False
    orientation: int = 1
    remark: str = ""
    are_counts: bool = True

    @property
    def is_deep(self) -> bool:
        """Whether the values have more than 8 bits, so that a white level applies."""
        return self.are_counts and (self.full > 255 or self.pixels.dtype.kind == "f")

    @property
    def colours(self) -> NDArray[Any]:
        """The channels without alpha."""
        return self.pixels if self.alpha is None else self.pixels[..., :-1]


@dataclass(frozen=True)
class Depth:
    """What an image deeper than 8 bits used of its range.

    Attributes
    ----------
    largest : float
        The largest value.
    white : int
        The value that was taken for white.
    n_clipped : int
        Pixels in which a channel was above it.
    """

    largest: float
    white: int
    n_clipped: int


def finish(decoded: Decoded, white: int | None, where: str) -> tuple[ImageArray, Depth | None]:
    """Return a decoded image in the form that the rest of the package sees.

    Parameters
    ----------
    decoded : Decoded
        The image.
    white : int or None
        The value that means white in images deeper than 8 bits; what lies above it becomes
        white, too. None: the full scale of the file's type.
    where : str
        What messages call the image: its file or id.

    Returns
    -------
    image : numpy.ndarray
        Shape (height, width, 3), uint8 or float32 in [0, 1]. Of grey images the three channels
        are the same memory, and may not be written to.
    depth : Depth or None
        What an image deeper than 8 bits used of its range.

    Raises
    ------
    ImageError
        A value is below 0, above white where none was given, or not finite.
    """
    pixels, depth = decoded.pixels, None
    if decoded.is_deep:
        # float16 holds no number above 65504, and few below it
        if pixels.dtype == np.float16:
            decoded = replace(decoded, pixels=pixels.astype(np.float32))
            pixels = decoded.pixels
        depth = _depth(decoded, white, where)
        pixels = _divided(pixels, depth.white, clip=white is not None)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind == "f":  # colours of a palette
        pixels = pixels.astype(np.float32, copy=False)
    elif 255 % decoded.full == 0:
        factor = np.uint8(255 // decoded.full)
        pixels = pixels if factor == 1 else pixels.astype(np.uint8) * factor
    else:
        _check_range(pixels, decoded.full, where)
        pixels = pixels.astype(np.float32) / decoded.full
    if decoded.inverted:
        n_colours = pixels.shape[2] - (decoded.alpha is not None)
        pixels = pixels.copy()
        one = 255 if pixels.dtype == np.uint8 else 1
        np.subtract(one, pixels[..., :n_colours], out=pixels[..., :n_colours])
    if decoded.alpha is not None:
        pixels = _over_black(pixels) if decoded.alpha == "straight" else pixels[..., :-1]
    pixels = turned(pixels, decoded.orientation)
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape[2] == 1:
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return pixels, depth


def contiguous(image: ImageArray) -> ImageArray:
    """Return an image whose channels have memory of their own, which may be written to."""
    return np.ascontiguousarray(image)  # type: ignore[return-value]


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the pixels upright, for the EXIF orientations 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _depth(decoded: Decoded, white: int | None, where: str) -> Depth:
    colours, high = decoded.colours, decoded.full if white is None else None
    largest = _check_range(colours, high, where)
    if decoded.alpha is not None:
        _check_range(decoded.pixels[..., -1:], high, where)
    level = decoded.full if white is None else white
    n_clipped = 0
    if largest > level:
        n_clipped = int((colours > level).any(axis=2).sum())
    return Depth(largest, level, n_clipped)


def _check_range(pixels: NDArray[Any], high: int | None, where: str) -> float:
    """Return the largest value; raise if one lies below 0, above `high`, or is not finite."""
    smallest = pixels.min() if pixels.dtype.kind != "u" else 0
    largest = pixels.max()  # NaN, if there is one
    if smallest >= 0 and (np.isfinite(largest) if high is None else largest <= high):
        return float(largest)
    expected = "of at least 0" if high is None else f"in [0, {high}]"
    if not np.isfinite(pixels).all():
        raise ImageError(f"{where}: expected finite values {expected}, got NaN or infinity")
    message = f"{where}: expected values {expected}, got {smallest:g} to {largest:g}"
    if high == 1:
        message += (
            "; images must not be normalised beforehand, the backbone does that, "
            "and values from 0 to 255 belong in uint8"
        )
    if high is not None and smallest >= 0:
        message += "; if a camera counted them, say which is white (white=4095, --white 4095)"
    raise ImageError(message)


def _divided(pixels: NDArray[Any], white: int, clip: bool) -> NDArray[np.float32]:
    if clip and pixels.dtype.itemsize > 2:
        # Cut first: float32 rounds integers above 2**24, and float64 may not fit.
        pixels = np.minimum(pixels, white)
    values = pixels.astype(np.float32, copy=False)
    if white != 1:
        values = values / np.float32(white)
    # Alpha may be cut, too: a camera whose white is 4095 has none above it.
    return values.clip(0, 1) if clip else values


def _over_black(pixels: NDArray[Any]) -> NDArray[Any]:
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    if pixels.dtype == np.uint8:
        # Rounded to the nearest; 255 * 255 + 127 still fits in 16 bits.
        product = colours.astype(np.uint16) * alpha
        return np.asarray((product + 127) // 255, dtype=np.uint8)
    return np.asarray(colours * alpha)
