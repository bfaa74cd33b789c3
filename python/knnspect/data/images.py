"""Read one image, or check one given as an array: the only two ways in."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import ImageArray, contiguous
from knnspect.data.decoding import MAX_PIXELS
from knnspect.data.formats import IMAGE_SUFFIXES
from knnspect.data.reader import ImageReader

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageArray",
    "check_image",
    "image_from_pillow",
    "read_image",
]


def read_image(
    path: str | os.PathLike[str], *, white: int | None = None, max_pixels: int = MAX_PIXELS
) -> ImageArray:
    """Return the image in a file as RGB.

    Reads PNG, JPEG, JPEG 2000, BMP, TIFF, WebP and PNM (PPM, PGM, PBM), with all bits that the file
    has. The EXIF orientation is applied. Grey, palette, 1-bit and CMYK images become RGB.
    Transparency is composited over black: a transparent pixel recorded no light, and the colour
    hidden under it, which dropping the alpha channel would bring back, was never meant to be
    seen. Gamma and colour profiles are left alone.

    Of TIFF, the tags are honoured: photometric interpretation, planes, sample format, bits,
    predictor, orientation and kind of alpha. What has no meaning as grey or as red, green and blue,
    such as five bands, is refused. Of a file with several pages or frames the first is read; of
    pages, a warning says so.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    white : int, optional
        The value that means white in images deeper than 8 bits, such as 4095 for a camera of 12
        bits; what lies above it becomes white, too, with a warning. By default the full scale of
        the file: 65535 for 16 bits, also for integers of 32 bits or with a sign; 4095 for a TIFF or
        JPEG 2000 of 12 bits; 1 for floats.
    max_pixels : int, default 200_000_000
        Pixels that the image may have; a larger one is refused before it is decoded.

    Returns
    -------
    numpy.ndarray
        Shape (height, width, 3). uint8, or float32 in [0, 1] for files deeper than 8 bits, whose
        values are divided by `white`.

    Raises
    ------
    ImageError
        The file is missing, is not an image of these formats, is damaged or truncated, is larger
        than `max_pixels`, has no meaning as an image of three colours, or holds values below 0,
        above the full scale, or that are not finite. The message names the file.
    ParameterError, DTypeError
        A parameter lies outside its values.

    Warns
    -----
    ReadingWarning
        Values lie above `white`, or use less than an eighth of the file's range; or the file has
        more pages or bands than were read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (4, 2), 128).save(f"{folder}/grey.png")
    ...     image = read_image(f"{folder}/grey.png")
    >>> image.shape, image.dtype.name, int(image[0, 0, 0])
    ((2, 4, 3), 'uint8', 128)
    """
    reader = ImageReader(white, max_pixels)
    image = reader.from_file(path)
    reader.warn()
    return contiguous(image)


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

    Warns
    -----
    ReadingWarning
        As for `read_image`; and Pillow is about to read 8 of 16 bits.

    Examples
    --------
    >>> image_from_pillow(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "red")[0, 0].tolist()
    [51, 0, 0]
    """
    reader = ImageReader()
    pixels = reader.from_pillow(image, where)
    reader.warn()
    return contiguous(pixels)


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

    Warns
    -----
    ReadingWarning
        uint16 values use less than an eighth of their range.

    Examples
    --------
    >>> import numpy as np
    >>> check_image(np.full((2, 2), 65535, np.uint16), "white")[0, 0].tolist()
    [1.0, 1.0, 1.0]
    >>> check_image(np.full((2, 2), -1.5), "image 7")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    knnspect.errors.ImageError: image 7: expected values in [0, 1], got -1.5 to -1.5; ...
    """
    reader = ImageReader()
    image = reader.from_array(array, where)
    reader.warn()
    return contiguous(image)
