"""Reads all images of a run in the same way, and says once what is out of the ordinary."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import Decoded, Depth, ImageArray, finish
from knnspect.data.decoding import MAX_PIXELS, decode, from_pillow
from knnspect.data.formats import FORMAT_WORDS
from knnspect.errors import (
    DTypeError,
    ImageError,
    MissingPackageError,
    ParameterError,
    ReadingWarning,
    ShapeError,
    errors_about,
)

__all__ = ["ImageReader", "Remarks", "check_max_pixels", "check_white"]

#: An image whose largest value is below this share of its range is taken for one that counts
#: fewer bits than its file has.
_SMALL_PART = 1 / 8


@dataclass(frozen=True)
class Remarks:
    """What a reader has collected to be said of images: remarks, dark ones, clipped pixels."""

    remarks: dict[str, list[str]]
    dark: tuple[str, Depth] | None
    n_clipped_pixels: int
    n_clipped_images: int
    most_clipped: tuple[str, Depth] | None


class ImageReader:
    """Reads files, arrays and Pillow images by one white level and one limit of size.

    May be used by several threads. What a user should know, such as pixels above the white level,
    is collected, and said once by `warn`.

    Parameters
    ----------
    white : int, optional
        The value that means white in images deeper than 8 bits, such as 4095 for a camera of 12
        bits; what lies above it becomes white, too. By default the full scale of the file's type.
    max_pixels : int, default 200_000_000
        Pixels that an image may have; larger ones are refused before they are decoded.

    Raises
    ------
    ParameterError, DTypeError
        A parameter lies outside its values.

    Examples
    --------
    >>> reader = ImageReader(white=4095)
    >>> reader.from_array(np.full((1, 1), 4095, np.uint16), "a")[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """

    #: What files are expected to be, in words.
    expected: ClassVar[str] = FORMAT_WORDS

    def __init__(self, white: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
        checked = check_white(white)
        if checked == "auto":
            raise ParameterError("white: expected a number here, 'auto' is found by fit")
        self.white = checked
        self.max_pixels = check_max_pixels(max_pixels)
        self._lock = threading.Lock()
        self._remarks: dict[str, list[str]] = {}
        self._dark: tuple[str, Depth] | None = None
        self._n_clipped_pixels = self._n_clipped_images = 0
        self._most_clipped: tuple[str, Depth] | None = None
        self._said: set[str] = set()

    def from_file(self, path: str | os.PathLike[str]) -> ImageArray:
        """Return the image in a file; see `read_image`."""
        file = Path(path)
        with errors_about(path=file):
            return self._from_file(file)

    def _from_file(self, file: Path) -> ImageArray:
        where = str(file)
        try:
            file_size = _checked_size(file)
            # Decoders are given an open stream, so that the file is closed whatever they do.
            with file.open("rb") as stream:
                return self._read(stream, file_size, where)
        except ImageError:
            raise
        except FileNotFoundError:
            raise ImageError(f"{where}: expected an image file, but there is no such file") from (
                None
            )
        except MissingPackageError as error:
            raise ImageError(f"{where}: {error}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:  # from the system
                raise ImageError(
                    f"{where}: expected a readable file, got: {error.strerror}"
                ) from error
            # On damaged files decoders raise nearly anything: OSError, SyntaxError, ValueError,
            # struct.error, EOFError and others.
            raise ImageError(
                f"{where}: expected {self.expected}, got a damaged file ({error})"
            ) from error

    def _read(self, stream: IO[bytes], file_size: int, where: str) -> ImageArray:
        return self._finish(decode(stream, file_size, where, self.max_pixels), where)

    def from_pillow(self, image: Image.Image, where: str) -> ImageArray:
        """Return a Pillow image; see `image_from_pillow`."""
        return self._finish(from_pillow(image, where, self.max_pixels), where)

    def from_array(self, array: NDArray[Any], where: str) -> ImageArray:
        """Return an array as an image; see `check_image`."""
        return self._finish(_from_array(array, where), where)

    def picture(self, image: ImageArray) -> ImageArray:
        """Return what a person is shown of an image that was read: the image."""
        return image

    def warn(self, at_end: bool = True, stacklevel: int = 2) -> None:
        """Warn of what has been collected and not been said yet.

        Parameters
        ----------
        at_end : bool, default True
            Whether all images have been read, so that they can be counted.
        stacklevel : int, default 2
            As for `warnings.warn`: 2 names the caller's line.
        """
        with self._lock:
            messages = self._messages(at_end)
            self._said.update(messages)
        for message in messages.values():
            warnings.warn(message, ReadingWarning, stacklevel=stacklevel + 1)

    def remarks(self) -> Remarks:
        """Return what has been collected, for `take` of a reader in another process."""
        with self._lock:
            return Remarks(
                {remark: list(at) for remark, at in self._remarks.items()},
                self._dark,
                self._n_clipped_pixels,
                self._n_clipped_images,
                self._most_clipped,
            )

    def take(self, found: Remarks) -> None:
        """Collect what another reader has collected of other images."""
        with self._lock:
            for remark, at in found.remarks.items():
                self._remarks.setdefault(remark, []).extend(at)
            self._dark = self._dark or found.dark
            self._n_clipped_pixels += found.n_clipped_pixels
            self._n_clipped_images += found.n_clipped_images
            if found.most_clipped is not None:
                self._note_clipped(*found.most_clipped)

    def _messages(self, at_end: bool) -> dict[str, str]:
        """Return what is to be said, by its kind."""
        messages = {}
        if self._dark is not None:
            messages["dark"] = _dark_message(*self._dark, self.white)
        if at_end:
            messages |= {remark: f"{_some(at)}: {remark}" for remark, at in self._remarks.items()}
        if at_end and self._most_clipped is not None:
            where, depth = self._most_clipped
            messages["clipped"] = (
                f"{self._n_clipped_pixels:,} pixels of {self._n_clipped_images} image(s) are "
                f"above the white level {depth.white} and were taken for white; the largest "
                f"value is {depth.largest:g}, in {where}"
            )
        return {kind: text for kind, text in messages.items() if kind not in self._said}

    def _finish(self, decoded: Decoded, where: str) -> ImageArray:
        image, depth = finish(decoded, self.white, where)
        if decoded.remark or depth is not None:
            with self._lock:
                self._note(decoded, depth, where)
        return image

    def _note(self, decoded: Decoded, depth: Depth | None, where: str) -> None:
        if decoded.remark:
            self._remarks.setdefault(decoded.remark, []).append(where)
        if depth is None:
            return
        if depth.n_clipped:
            self._n_clipped_pixels += depth.n_clipped
            self._n_clipped_images += 1
            self._note_clipped(where, depth)
        is_float = decoded.pixels.dtype.kind == "f"
        # Floats lie in [0, 1] where no level is given, and hardly ever where one is.
        is_dark = (
            (is_float and depth.largest <= 1 < depth.white)
            if self.white is not None
            else (not is_float and depth.largest < _SMALL_PART * depth.white)
        )
        if self._dark is None and is_dark and depth.largest > 0:
            self._dark = (where, depth)

    def _note_clipped(self, where: str, depth: Depth) -> None:
        if self._most_clipped is None or depth.largest > self._most_clipped[1].largest:
            self._most_clipped = (where, depth)


def check_white(white: object) -> int | Literal["auto"] | None:
    """Return a white level, checked: a whole number of at least 1, "auto" or None."""
    if white is None or (isinstance(white, str) and white == "auto"):
        return white  # type: ignore[return-value]
    if isinstance(white, bool) or not isinstance(white, int | np.integer):
        raise DTypeError(
            f"white: expected a whole number, 'auto' or None, got {type(white).__name__} {white!r}"
        )
    if not 1 <= white < 2**32:
        raise ParameterError(f"white: expected 1 to {2**32 - 1}, got {white}")
    return int(white)


def check_max_pixels(max_pixels: object) -> int:
    """Return a limit of pixels, checked: a whole number of at least 1."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int | np.integer):
        raise DTypeError(
            f"max_pixels: expected a whole number, got {type(max_pixels).__name__} {max_pixels!r}"
        )
    if max_pixels < 1:
        raise ParameterError(f"max_pixels: expected at least 1, got {max_pixels}")
    return int(max_pixels)


def _checked_size(file: Path) -> int:
    # Asked before opening: opening a named pipe would wait for ever.
    about = file.stat()
    if stat.S_ISDIR(about.st_mode):
        raise ImageError(f"{file}: expected an image file, got a folder", path=file)
    if not stat.S_ISREG(about.st_mode):
        raise ImageError(
            f"{file}: expected an image file, got something that is not a file", path=file
        )
    if about.st_size == 0:
        raise ImageError(f"{file}: expected an image file, got an empty file (0 bytes)", path=file)
    return about.st_size


def _from_array(array: NDArray[Any], where: str) -> Decoded:
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"{where}: expected a NumPy array, got {type(array).__name__}")
    _check_shape(array, where)
    pixels = array[..., None] if array.ndim == 2 else array
    kind, n_bytes = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b" or (kind == "f" and n_bytes <= 8):
        full = 1
    elif kind == "u" and n_bytes <= 2:
        full = 255 if n_bytes == 1 else 65535
    else:
        raise DTypeError(
            f"{where}: expected uint8, uint16, bool, float16, float32 or float64, "
            f"got {pixels.dtype.name}"
        )
    return Decoded(pixels, full, "straight" if pixels.shape[2] == 4 else None)


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


def _some(places: list[str]) -> str:
    """Return the first of several places, and how many more there are."""
    places = sorted(places)
    return places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more image(s)"


def _dark_message(where: str, depth: Depth, white: int | None) -> str:
    if white is not None:
        return (
            f"{where}: has floats up to {depth.largest:g}, which are divided by the white level "
            f"{depth.white}, so that nearly nothing is left; floats in [0, 1] need no white level"
        )
    level = next(2**n_bits - 1 for n_bits in (10, 12, 14, 16, 32) if depth.largest < 2**n_bits)
    return (
        f"{where}: its largest value is {depth.largest:g} of {depth.white}, a small part of the "
        "range; if the camera counts fewer bits than the file has, say which value is white: "
        f"white={level}, for one, or white='auto' (--white {level}, --white auto)"
    )
