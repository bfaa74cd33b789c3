"""Read one image, or check one given as an array: the only two ways in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from knnspect.errors import DTypeError, ImageError, ShapeError

__all__ = ["IMAGE_SUFFIXES", "ImageArray", "check_image", "image_from_pillow", "read_image"]

ImageArray: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
"""An image as the rest of the package sees it: (height, width, 3), uint8 or float32 in [0, 1]."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""File name endings, in lower case, of the formats that `read_image` reads."""

# A closed list: Pillow's other plugins are less tried, and one of them starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_FORMAT_WORDS = "a PNG, JPEG, BMP, TIFF or WebP image"
_DEEP_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Return the image in a file as RGB.

    Reads PNG, JPEG, BMP, TIFF and WebP of any size. The EXIF orientation is applied; of a file
    with several frames the first is read. Grey, palette, 1-bit and CMYK images become RGB.
    Transparency is composited over black: a transparent pixel recorded no light, and the colour
    hidden under it, which dropping the alpha channel would bring back, was never meant to be
    seen. Colour images of 16 bits per channel are read by Pillow with the upper 8 bits.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    numpy.ndarray
        Shape (height, width, 3). uint8, or float32 in [0, 1] for grey files deeper than 8 bits:
        integers are divided by 65535, floats are taken as they are.

    Raises
    ------
    ImageError
        The file is missing, is not an image of these formats, is damaged or truncated, has more
        than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, or holds values outside 0 to 65535 (integers)
        or [0, 1] (floats). The message names the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "grey.png"
    ...     Image.new("L", (4, 2), 128).save(file)
    ...     image = read_image(file)
    >>> image.shape, image.dtype.name, int(image[0, 0, 0])
    ((2, 4, 3), 'uint8', 128)
    """
    file = Path(path)
    try:
        # Pillow is given an open stream, so that the file is closed whatever Pillow does.
        _check_file(file)
        with file.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
            return image_from_pillow(image, str(file))
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{file}: expected an image file, but there is no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # The second is raised only where the caller has turned warnings into errors.
        raise ImageError(_too_many_pixels(str(file), "more")) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{file}: expected {_FORMAT_WORDS}, got a file that is none of these "
            "or whose header is damaged"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # from the system, not from Pillow
            raise ImageError(f"{file}: expected a readable file, got: {error.strerror}") from error
        # On damaged files Pillow's plugins raise nearly anything: OSError, SyntaxError,
        # ValueError, struct.error, EOFError and others.
        raise ImageError(f"{file}: expected {_FORMAT_WORDS}, got a damaged file ({error})") from (
            error
        )


def image_from_pillow(image: Image.Image, where: str) -> ImageArray:
    """Return a Pillow image as RGB, by the same rules as `read_image`.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of any mode; it is loaded if it was not yet, and not changed otherwise.
    where : str
        What messages call the image: its file or id.

    Returns
    -------
    numpy.ndarray
        Shape (height, width, 3), uint8, or float32 in [0, 1] for the modes I, I;16 and F.

    Raises
    ------
    ImageError
        The image cannot be loaded or converted, has too many pixels or none, or holds values out
        of range.

    Examples
    --------
    >>> image_from_pillow(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "red")[0, 0].tolist()
    [51, 0, 0]
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(_too_many_pixels(where, f"{image.width} x {image.height}"))
    if 0 in image.size:
        raise ImageError(f"{where}: expected an image with pixels, got size {image.size}")
    try:
        image.load()
        pixels = _pixels(image)
        # Read after load(), since Pillow's TIFF reader turns the pixels itself while loading.
        orientation = _orientation(image)
    except Exception as error:
        raise ImageError(
            f"{where}: expected a whole image, got a damaged or truncated one, or one of a mode "
            f"that cannot become RGB ({image.mode}): {error}"
        ) from error
    if pixels.dtype == np.int32:
        _check_range(pixels, 0, 65535, where)
        pixels = pixels.astype(np.uint16)
    return check_image(_turned(pixels, orientation), where)


def check_image(array: NDArray[Any], where: str) -> ImageArray:
    """Return one image given as an array in the form that `read_image` gives.

    Parameters
    ----------
    array : numpy.ndarray
        Shape (height, width), (height, width, 1), (height, width, 3), or (height, width, 4) with
        alpha last, which is composited over black. uint8; uint16, which is divided by 65535;
        bool, where True is white; or float16, float32 or float64 in [0, 1].
    where : str
        What messages call the image: its file or id.

    Returns
    -------
    numpy.ndarray
        Shape (height, width, 3), C-contiguous, uint8 (from uint8 and bool) or float32 in [0, 1].
        May share memory with `array`.

    Raises
    ------
    ShapeError
        The array has another shape, or no pixels.
    DTypeError
        It is not an array, or has another element type.
    ImageError
        A float value is not finite or lies outside [0, 1].

    Examples
    --------
    >>> check_image(np.full((2, 2), 65535, np.uint16), "white")[0, 0].tolist()
    [1.0, 1.0, 1.0]
    >>> check_image(np.full((2, 2), -1.5), "image 7")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    knnspect.errors.ImageError: image 7: expected values in [0, 1], got -1.5 to -1.5; ...
    """
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"{where}: expected a NumPy array, got {type(array).__name__}")
    _check_shape(array, where)
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.float32) / 65535
    elif pixels.dtype.kind == "f" and pixels.dtype.itemsize <= 8:
        _check_range(pixels, 0, 1, where)
        pixels = pixels.astype(np.float32, copy=False)
    elif pixels.dtype != np.uint8:
        raise DTypeError(
            f"{where}: expected uint8, uint16, bool, float16, float32 or float64, "
            f"got {pixels.dtype.name}"
        )
    if pixels.shape[2] == 4:
        pixels = _over_black(pixels)
    elif pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _check_file(file: Path) -> None:
    # Asked before opening: opening a named pipe would wait for ever.
    if file.is_dir():
        raise ImageError(f"{file}: expected an image file, got a folder")
    size = file.stat().st_size
    if not file.is_file():
        raise ImageError(f"{file}: expected an image file, got something that is not a file")
    if size == 0:
        raise ImageError(f"{file}: expected an image file, got an empty file (0 bytes)")


def _check_shape(array: NDArray[Any], where: str) -> None:
    expected = "(height, width), (height, width, 1), (height, width, 3) or (height, width, 4)"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; channels come last in an array" if channels_first else ""
        raise ShapeError(
            f"{where}: expected one image of shape {expected}, got {array.shape}{hint}"
        )
    if array.size == 0:
        raise ShapeError(f"{where}: expected an image with pixels, got shape {array.shape}")


def _check_range(pixels: NDArray[Any], low: int, high: int, where: str) -> None:
    smallest, largest = pixels.min(), pixels.max()  # NaN, if there is one
    if smallest >= low and largest <= high:
        return
    if not np.isfinite(pixels).all():
        raise ImageError(f"{where}: expected finite values in [{low}, {high}], got NaN or infinity")
    message = f"{where}: expected values in [{low}, {high}], got {smallest:g} to {largest:g}"
    if high == 1:
        message += (
            "; images must not be normalised beforehand, the backbone does that, "
            "and values from 0 to 255 belong in uint8"
        )
    raise ImageError(message)


def _pixels(image: Image.Image) -> NDArray[Any]:
    """Return a loaded image's values, before orientation: grey, RGB or RGBA."""
    if image.mode in _DEEP_INTEGER_MODES or image.mode == "F":
        return np.asarray(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        straight = image.convert("LA") if image.mode == "La" else image
        return np.asarray(straight.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _over_black(pixels: NDArray[Any]) -> NDArray[Any]:
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if pixels.dtype == np.uint8:
        # Rounded to the nearest; 255 * 255 + 127 still fits in 16 bits.
        product = colour.astype(np.uint16) * alpha
        return np.asarray((product + 127) // 255, dtype=np.uint8)
    return np.asarray(colour * alpha)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # The pixels are whole; EXIF data that cannot be read say nothing about how they lie.
        return 1
    return value if isinstance(value, int) else 1


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the pixels upright, for the EXIF orientations 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _too_many_pixels(where: str, came: str) -> str:
    return (
        f"{where}: expected at most {Image.MAX_IMAGE_PIXELS} pixels, got {came}; "
        "raise PIL.Image.MAX_IMAGE_PIXELS to read it if you trust the file"
    )
