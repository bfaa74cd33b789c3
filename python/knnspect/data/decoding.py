"""From a file to pixels: each format by the library that reads all of its bits."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from knnspect.data.decoded import Decoded
from knnspect.data.formats import FORMAT_WORDS, format_of
from knnspect.data.geometry import strips
from knnspect.data.quiet import quiet
from knnspect.data.tiff import decode_tiff, open_tiff
from knnspect.errors import ImageError
from knnspect.extras import require

__all__ = ["MAX_PIXELS", "check_size", "decode", "from_pillow"]

MAX_PIXELS = 200_000_000
"""Pixels that an image may have, unless a caller allows more."""

#: Pixels from which on an image is taken over from Pillow in parts: in it colours have 4 bytes.
_LARGE = 2**24
_DEEP_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode(stream: IO[bytes], file_size: int, where: str, max_pixels: int) -> Decoded:
    """Return the pixels of a file, all bits of them.

    Parameters
    ----------
    stream : binary file
        The open file.
    file_size : int
        Its bytes.
    where : str
        What messages call it.
    max_pixels : int
        Pixels that it may have. The size is compared before a pixel is decoded.

    Returns
    -------
    Decoded
        The pixels, and how they are meant.

    Raises
    ------
    ImageError
        The file is of another format, too large, or has no meaning as an image of three colours.
    Exception
        Nearly anything, if the file is damaged.
    """
    format_ = format_of(stream.read(16))
    if format_ is None:
        raise ImageError(
            f"{where}: expected {FORMAT_WORDS}, got a file that is none of these "
            "or whose header is damaged"
        )
    stream.seek(0)
    if format_.open_in_pillow is None:
        with open_tiff(stream, where) as header:
            check_size(header.n_pixels, header.size, where, max_pixels)
            return decode_tiff(header, stream, file_size, where)
    with format_.open_in_pillow(stream) as image:
        check_size(image.width * image.height, f"{image.width} x {image.height}", where, max_pixels)
        if format_.name in _DEEP:
            deep = _DEEP[format_.name](image, stream)
            if deep is not None:
                return deep
        return from_pillow(image, where, max_pixels)


def check_size(n_pixels: int, size: str, where: str, max_pixels: int) -> None:
    """Raise an ImageError if an image has more pixels than it may have."""
    if n_pixels > max_pixels:
        raise ImageError(
            f"{where}: expected at most {max_pixels:,} pixels, got {size} ({n_pixels:,}); if you "
            f"trust the file, allow more: max_pixels={_allowing(n_pixels):_}, on the command line "
            f"--max-pixels {_allowing(n_pixels) // 10**6}MP"
        )


def from_pillow(image: Image.Image, where: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Return the pixels of a Pillow image of any mode; it is loaded if it was not yet.

    Raises
    ------
    ImageError
        The image is too large, has no pixels, or cannot be loaded or converted.
    """
    check_size(image.width * image.height, f"{image.width} x {image.height}", where, max_pixels)
    if 0 in image.size:
        raise ImageError(f"{where}: expected an image with pixels, got size {image.size}")
    remark = ""
    if getattr(image, "tile", None) and _is_cut(image):
        remark = "was opened by Pillow, which reads 8 of its bits: give the path to have all"
    try:
        image.load()
        pixels, full = _pixels(image)
        # Read after load(), since Pillow's TIFF reader turns the pixels itself while loading.
        orientation = _orientation(image)
    except Exception as error:
        raise ImageError(
            f"{where}: expected a whole image, got a damaged or truncated one, or one of a mode "
            f"that cannot become RGB ({image.mode}): {error}"
        ) from error
    alpha = "straight" if pixels.shape[2] == 4 else None
    return Decoded(pixels, full, alpha, orientation=orientation, remark=remark)  # type: ignore[arg-type]


def _pixels(image: Image.Image) -> tuple[NDArray[Any], int]:
    """Return a loaded image's values before orientation, and what white is."""
    if image.mode == "F":
        return np.asarray(image)[..., np.newaxis], 1
    if image.mode in _DEEP_INTEGER_MODES:
        return np.asarray(image)[..., np.newaxis], 65535
    mode = "L" if image.mode in ("L", "1") else "RGB"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        mode = "RGBA"
    if image.width * image.height <= _LARGE:
        return np.atleast_3d(np.asarray(_converted(image, mode))), 255
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in strips(pixels.shape):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        pixels[rows] = np.atleast_3d(np.asarray(_converted(strip, mode)))
    return pixels, 255


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image  # which `convert` would copy
    return (image.convert("LA") if image.mode == "La" else image).convert(mode)


def _is_cut(image: Image.Image) -> bool:
    """Return whether Pillow is about to read a colour file of 16 bits with 8."""
    return image.mode in ("RGB", "RGBA", "LA") and any(
        ";16" in str(tile[3])
        for tile in image.tile  # type: ignore[attr-defined]
    )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # The pixels are whole; EXIF data that cannot be read say nothing about how they lie.
        return 1
    return value if isinstance(value, int) else 1


def _deep_png(image: Image.Image, stream: IO[bytes]) -> Decoded | None:
    """Return a PNG of 16 bits, or a grey one of less than 8; None for what is left to Pillow.

    Pillow reads colours of 16 bits with 8, and compares the transparent value of greys that are
    not of 8 bits with values of another scale.
    """
    stream.seek(24)
    depth, colour_type = stream.read(2)
    if depth == 8 or (depth < 8 and colour_type != 0):
        return None
    if colour_type == 0 and "transparency" not in image.info and not find_spec("imagecodecs"):
        return None  # Pillow takes a fifth longer, with the same values
    require("imagecodecs", for_="reading this file")
    import imagecodecs

    stream.seek(0)
    content = stream.read()
    with quiet():
        pixels = imagecodecs.png_decode(content)
    if pixels.shape[:2] != (image.height, image.width):
        raise ValueError(f"its pixels have the shape {pixels.shape}")
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    alpha = "straight" if pixels.shape[2] in (2, 4) else None
    full = 255 if pixels.dtype == np.uint8 else 65535
    return Decoded(pixels, full, alpha, orientation=_png_orientation(content, image))  # type: ignore[arg-type]


def _png_orientation(content: bytes, image: Image.Image) -> int:
    for kind, data in _png_chunks(content):
        if kind == b"eXIf":
            exif = Image.Exif()
            try:
                exif.load(data)
                value = exif.get(ExifTags.Base.Orientation, 1)
            except Exception:
                return 1
            return value if isinstance(value, int) else 1
        if kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(b"Raw profile type exif\0"):
            return _orientation(image)
    return 1


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(content):
        n_bytes, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + 8 + n_bytes] if kind != b"IDAT" else b""
        at += n_bytes + 12


def _deep_jpeg2000(image: Image.Image, stream: IO[bytes]) -> Decoded | None:
    """Return a JPEG 2000 image of more than 8 bits, which Pillow cuts; None for others."""
    stream.seek(0)
    content = stream.read()
    # The codestream begins with its size marker: 38 bytes, then 3 for each component.
    start = content.find(b"\xff\x4f\xff\x51")
    (n_components,) = struct.unpack_from(">H", content, start + 40)
    depths = {content[start + 42 + 3 * i] + 1 for i in range(n_components)}
    if max(depths) <= 8:
        return None
    if len(depths) > 1 or max(depths) > 16:
        raise ValueError(f"components of {sorted(depths)} bits, signed ones counted from 129")
    require("imagecodecs", for_="reading this file")
    import imagecodecs

    with quiet():
        pixels = imagecodecs.jpeg2k_decode(content)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[:2] != (image.height, image.width) or pixels.shape[2] > 4:
        raise ValueError(f"its pixels have the shape {pixels.shape}")
    alpha = "straight" if pixels.shape[2] in (2, 4) else None
    return Decoded(pixels, int(2 ** max(depths) - 1), alpha)  # type: ignore[arg-type]


def _deep_pnm(image: Image.Image, stream: IO[bytes]) -> Decoded | None:
    """Return a PGM or PPM of more than 8 bits, which Pillow scales or cuts; None for others."""
    stream.seek(0)
    magic = stream.read(2)
    numbers: list[int] = []
    while len(numbers) < 3 and magic in (b"P2", b"P3", b"P5", b"P6"):
        numbers.append(_pnm_number(stream))
    if not numbers or not 255 < numbers[2] < 65536:
        return None
    n_channels = 3 if magic in (b"P3", b"P6") else 1
    shape = (numbers[1], numbers[0], n_channels)
    if shape[:2] != (image.height, image.width):
        raise ValueError(f"its pixels have the shape {shape}")
    if magic in (b"P5", b"P6"):
        values = np.frombuffer(stream.read(2 * int(np.prod(shape))), ">u2")
    else:
        text = re.sub(rb"#[^\r\n]*", b"", stream.read())
        values = np.array([int(word) for word in text.split()], np.uint16)
    return Decoded(values.reshape(shape), numbers[2])


def _pnm_number(stream: IO[bytes]) -> int:
    """Return the next number of a header; one byte of white space after it is read, too."""
    digits = b""
    while True:
        byte = stream.read(1)
        if byte == b"#":
            stream.readline()
        elif byte.isdigit() and len(digits) < 10:
            digits += byte
            continue
        elif not byte or not byte.isspace():
            raise ValueError("its header is damaged")
        if digits:
            return int(digits)


_DEEP = {"PNG": _deep_png, "JPEG 2000": _deep_jpeg2000, "PNM": _deep_pnm}


def _allowing(n_pixels: int) -> int:
    """Return a round limit that lets an image of so many pixels through."""
    return -(-n_pixels // 10**7) * 10**7
