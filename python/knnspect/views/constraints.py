"""Which values parameters of views may have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from knnspect.constraints import Bad, Constraint
from knnspect.errors import DTypeError, ImageError, KnnspectError, ParameterError, ShapeError
from knnspect.validation import describe_value
from knnspect.views.region import Region
from knnspect.views.variants import Variants

__all__ = ["IsMask", "IsVariants"]


class IsVariants(Constraint):
    """Variants of images; as a text, such as ``rotations=8,brightness=0.8:1.2,mirror``.

    >>> IsVariants().parse("variants", "rotations=8,mirror")
    Variants(rotations=8, brightness=(), mirror=True)
    """

    metavar = "rotations=INT,brightness=NUM:NUM,mirror"

    def check(self, name: str, value: Any) -> None:
        """Check the type; the values were checked when they were made."""
        if not isinstance(value, Variants):
            raise DTypeError(
                f"{name}: expected Variants, such as Variants(rotations=8), got {value!r}"
            )

    def parse(self, name: str, text: str) -> Variants:
        """Return the variants."""
        try:
            return Variants.parse(text)
        except KnnspectError as error:
            raise ParameterError(f"{name}: {error}") from None

    def saved(self, value: Variants) -> str:
        """Return them as a text."""
        return str(value)

    def restored(self, name: str, saved: Any) -> Variants:
        """Return the variants of a text."""
        if not isinstance(saved, str):
            raise DTypeError(f"{name}: expected a text, got {type(saved).__name__}")
        return self.parse(name, saved)

    def bad_values(self) -> Iterator[Bad]:
        """Yield what are no variants."""
        yield from ((value, DTypeError) for value in (8, "rotations=8", None, (0.8, 1.2)))


class IsMask(Constraint):
    """The word "pca", or what makes a `Region`: the file of a mask, an array, or a region.

    Files are read, and arrays copied, when the parameter is set.

    >>> IsMask().kept(np.eye(2, dtype=bool))
    Region(height=2, width=2, share=0.5)
    """

    metavar = "pca|FILE"

    def check(self, name: str, value: Any) -> None:
        """Check that it is the word or a region."""
        if isinstance(value, str) and value == "pca":
            return
        if not isinstance(value, (str, os.PathLike, np.ndarray, Region)):
            raise DTypeError(
                f'{name}: expected "pca", the file of a mask, or an array of bool or uint8, '
                f"got {describe_value(value)}"
            )
        try:
            Region.of(value)
        except ImageError as error:
            raise ParameterError(f'{name}: expected "pca" or the file of a mask: {error}') from None
        except KnnspectError as error:
            raise type(error)(f"{name}: {error}") from None

    def kept(self, value: Any) -> Any:
        """Return the region of a file or an array."""
        if isinstance(value, str) and value == "pca":
            return value
        try:
            return Region.of(value)
        except KnnspectError:
            return value

    def parse(self, name: str, text: str) -> Any:
        """Return the word, or the region in a file."""
        value = self.kept(text)
        if not isinstance(value, Region):
            self.check(name, text)
        return value

    def saved(self, value: Any) -> Any:
        """Return the word, or the pixels of a region."""
        return value if isinstance(value, str) else Region.of(value).to_json()

    def restored(self, name: str, saved: Any) -> Any:
        """Return the word, or the region; a file is never read."""
        return saved if saved == "pca" else Region.from_json(saved)

    def bad_values(self) -> Iterator[Bad]:
        """Yield a file that is not there, arrays of other kinds, and a mask that hides all."""
        yield "no such file.png", ParameterError
        yield from ((value, DTypeError) for value in (3, np.int8, np.ones((1, 1))))
        yield np.ones((1, 1, 3), np.uint8), ShapeError
        yield np.zeros((1, 1), bool), ParameterError
