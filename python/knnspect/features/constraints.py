"""What values the parameters of a backbone may have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import numpy as np

from knnspect.constraints import Bad, Choice, Constraint, Count
from knnspect.data.geometry import MAX_INPUT
from knnspect.data.reader import check_max_pixels, check_white
from knnspect.errors import DTypeError, ParameterError
from knnspect.validation import check_count, parse_numbers

__all__ = [
    "POOLED",
    "PRECISIONS",
    "Device",
    "ImageSize",
    "Levels",
    "MaxPixels",
    "Name",
    "PatchSize",
    "Resize",
    "Unused",
    "Weights",
    "WhiteLevel",
    "are_names",
    "check_multiples",
    "checked_image_size",
    "checked_levels",
    "checked_names",
]


#: What images may be described by as a whole, and what a network may compute in.
POOLED = Choice("mean", "max", "cls")
PRECISIONS = Choice("float32", "float16")


class Name(Constraint):
    """A network of timm, or the path of an ONNX file; looked for when the network is built.

    >>> Name().kept(PurePath("network.onnx"))
    'network.onnx'
    """

    metavar = "NAME|FILE"

    def kept(self, value: Any) -> Any:
        """Return a path as a text."""
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    def check(self, name: str, value: Any) -> None:
        """Check the type."""
        if not isinstance(value, str):
            raise DTypeError(
                f"{name}: expected the name of a timm model or an ONNX file, got "
                f"{type(value).__name__}"
            )

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no text."""
        yield 3, DTypeError


class Weights(Constraint):
    """A word, or the path of a file; which of them exist is seen when the network is built."""

    metavar = "WORD|FILE"

    def check(self, name: str, value: Any) -> None:
        """Check the type."""
        if not isinstance(value, (str, os.PathLike)):
            raise DTypeError(f"{name}: expected a word or a path, got {type(value).__name__}")

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is neither."""
        yield 3, DTypeError


class Levels(Constraint):
    """Feature maps of a network, finest first; negative ones are counted from the last.

    Of ONNX networks they may be names of tensors, in quotes where a name is a number.

    >>> Levels().parse("levels", "1,2,3"), Levels().parse("levels", "relu_1,'36'")
    ((1, 2, 3), ('relu_1', '36'))
    """

    metavar = "INT|NAME,..."

    def check(self, name: str, value: Any) -> None:
        """Check that there is one, and the order of numbers."""
        if are_names(value):
            checked_names(value)
        else:
            checked_levels(value)

    def parse(self, name: str, text: str) -> tuple[int, ...] | tuple[str, ...]:
        """Return numbers or names separated by commas."""
        parts = [part.strip() for part in text.split(",")]
        if all(re.fullmatch(r"[+-]?\d+", part) for part in parts):
            return parse_numbers(name, text, ",")
        names = tuple(part[1:-1] if re.fullmatch(r"'.*'|\".*\"", part) else part for part in parts)
        if not all(names):
            raise ParameterError(
                f"{name}: expected whole numbers or names, separated by ',', got {text!r}"
            )
        return names

    def bad_values(self) -> Iterator[Bad]:
        """Yield other types and orders."""
        yield from ((value, DTypeError) for value in ("1,2", 3, (1.0,)))
        yield from ((value, ParameterError) for value in ((), (2, 1), (1, 1), (-1, -2)))
        yield from (((1, "a"), DTypeError), (("a", "a"), ParameterError))


class ImageSize(Constraint):
    """The side of a square, or height and width.

    >>> ImageSize().parse("image_size", "224"), ImageSize().parse("image_size", "256x128")
    (224, (256, 128))
    """

    metavar = "INT|HxW"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the size."""
        checked_image_size(value)

    def parse(self, name: str, text: str) -> int | tuple[int, int]:
        """Return one number, or two with an x between them."""
        sizes = parse_numbers(name, text, "x")
        if len(sizes) > 2:
            raise ParameterError(f"{name}: expected 224 or HEIGHTxWIDTH, got {text!r}")
        return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])

    def bad_values(self) -> Iterator[Bad]:
        """Yield other types and sizes."""
        yield from ((value, DTypeError) for value in ("224", 224.0, None))
        yield from ((value, ParameterError) for value in (0, (224,), (224, -1), (2**15, 2**15)))


class Resize(Choice):
    """How an image meets the input; None for what suits the other parameters."""

    def __init__(self) -> None:
        super().__init__("stretch", "crop", "pad", "shorter", "own")

    def check(self, name: str, value: Any) -> None:
        """Check that it is one of the words, or None."""
        if value is not None:
            super().check(name, value)

    def bad_values(self) -> Iterator[Bad]:
        """Yield another word, and what is no word."""
        yield from ((value, ParameterError) for value in ("no such word", np.int8))


class PatchSize(Count):
    """An odd number of cells."""

    def check(self, name: str, value: Any) -> None:
        """Check that it is odd."""
        super().check(name, value)
        if value % 2 == 0:
            raise ParameterError(f"{name}: expected an odd number, got {value}")

    def bad_values(self) -> Iterator[Bad]:
        """Yield an even number, too."""
        yield from super().bad_values()
        yield 2, ParameterError


class Device(Constraint):
    """A device in PyTorch's words; whether it is there is seen when the network is built."""

    def check(self, name: str, value: Any) -> None:
        """Check nothing: what PyTorch takes for a device, PyTorch knows."""

    def bad_values(self) -> Iterator[Bad]:
        """Yield nothing."""
        yield from ()


class WhiteLevel(Constraint):
    """A whole number, "auto" or None."""

    metavar = "INT|auto"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        check_white(value)

    def parse(self, name: str, text: str) -> Any:
        """Return a number or "auto"."""
        if text == "auto":
            return text
        try:
            return int(text)
        except ValueError:
            raise ParameterError(f"{name}: expected a whole number or auto, got {text!r}") from None

    def bad_values(self) -> Iterator[Bad]:
        """Yield other types, words and numbers."""
        yield from ((value, DTypeError) for value in ("bright", 1.5, True))
        yield from ((value, ParameterError) for value in (0, 2**32))


class Unused(Constraint):
    """None: what others have is of no use here."""

    def check(self, name: str, value: Any) -> None:
        """Check that it is None."""
        if value is not None:
            raise ParameterError(f"{name}: is not used here, expected None, got {value!r}")

    def bad_values(self) -> Iterator[Bad]:
        """Yield values that others have."""
        yield from ((value, ParameterError) for value in (1, "auto"))


class MaxPixels(Constraint):
    """A number of pixels.

    >>> [MaxPixels().parse("max_pixels", text) for text in ("200MP", "2.5 M", "77")]
    [200000000, 2500000, 77]
    """

    metavar = "PIXELS"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        check_max_pixels(value)

    def parse(self, name: str, text: str) -> int:
        """Return a number that was given as 200MP, 200M or 200000000."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMG])P?)?", text.strip().upper(), re.ASCII)
        if match is None:
            raise ParameterError(f"{name}: expected pixels, such as 200MP, got {text!r}")
        power = {None: 0, "K": 3, "M": 6, "G": 9}[match[2]]
        n_pixels = int(float(match[1]) * 10**power)
        if n_pixels < 1:
            raise ParameterError(f"{name}: expected at least 1 pixel, got {text!r}")
        return n_pixels

    def bad_values(self) -> Iterator[Bad]:
        """Yield other types and numbers."""
        yield from ((value, DTypeError) for value in ("200MP", 1.5, True, None))
        yield 0, ParameterError


def checked_levels(levels: object, n_levels: int | None = None) -> list[int]:
    """Return levels as a list, or raise a ParameterError or DTypeError.

    Parameters
    ----------
    levels : object
        What may be a sequence of integers.
    n_levels : int, optional
        How many there are, all of these being in range. Then negative ones, counted from the last,
        become the ones that they stand for.

    Examples
    --------
    >>> checked_levels((-3, -1)), checked_levels((2, -1), 12)
    ([-3, -1], [2, 11])
    """
    if isinstance(levels, str) or not isinstance(levels, (Sequence, np.ndarray)):
        raise DTypeError(f"levels: expected a sequence of integers, got {levels!r}")
    checked = [check_count(f"levels[{i}]", level, -(2**31)) for i, level in enumerate(levels)]
    if n_levels is not None:
        checked = [level + n_levels if level < 0 else level for level in checked]
    # Before it is known how many there are, negative ones are compared with each other alone.
    pairs = [(a, b) for a, b in pairwise(checked) if (a < 0) == (b < 0)]
    if not checked or any(b <= a for a, b in pairs):
        raise ParameterError(
            f"levels: expected at least one, finest first, each once, got {tuple(levels)}"
        )
    return checked


def are_names(levels: object) -> bool:
    """Return whether levels are given by the names of tensors.

    >>> are_names(["relu_1"]), are_names((1, 2)), are_names("relu_1")
    (True, False, False)
    """
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        return False
    return bool(levels) and all(isinstance(level, str) for level in levels)


def checked_names(names: Sequence[str]) -> list[str]:
    """Return the names of levels as a list, or raise a ParameterError.

    >>> checked_names(("relu_1", "relu_2"))
    ['relu_1', 'relu_2']
    """
    if len(set(names)) < len(names):
        raise ParameterError(
            f"levels: expected each tensor once, got {', '.join(names)}", parameter="levels"
        )
    return list(names)


def checked_image_size(image_size: object) -> tuple[int, int]:
    """Return height and width, or raise a ParameterError or DTypeError."""
    if isinstance(image_size, (int, np.integer)):
        image_size = (int(image_size), int(image_size))
    if isinstance(image_size, (str, PurePath)) or not isinstance(image_size, Sequence):
        raise DTypeError(
            "image_size: expected one number or (height, width), "
            f"got {image_size!r} of type {type(image_size).__name__}"
        )
    sizes = tuple(image_size)
    if len(sizes) != 2:
        raise ParameterError(f"image_size: expected one number or (height, width), got {sizes}")
    height, width = check_count("image_size", sizes[0]), check_count("image_size", sizes[1])
    if height * width > MAX_INPUT:
        raise ParameterError(
            f"image_size: expected at most {MAX_INPUT} pixels in all, got {height} x {width}"
        )
    return height, width


def check_multiples(image_size: tuple[int, int], multiple: int, what: str) -> None:
    """Raise a ParameterError, which names the nearest sizes that can be, unless a size can be.

    >>> check_multiples((448, 450), 14, "the patch of vit_small_patch14_dinov2")
    Traceback (most recent call last):
    knnspect.errors.ParameterError: image_size: expected multiples of 14, the patch of \
vit_small_patch14_dinov2, got 448 x 450; the nearest are 448 x 448 and 448 x 462
    """
    if any(side % multiple for side in image_size):
        below = [max(multiple, side - side % multiple) for side in image_size]
        above = [side + -side % multiple for side in image_size]
        nearest = " and ".join(dict.fromkeys(f"{h} x {w}" for h, w in (below, above)))
        raise ParameterError(
            f"image_size: expected multiples of {multiple}, {what}, got {image_size[0]} x "
            f"{image_size[1]}; the nearest are {nearest}",
            parameter="image_size",
        )
