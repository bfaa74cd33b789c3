"""Which values parameters of views may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from knnspect.constraints import Bad, Constraint
from knnspect.errors import DTypeError, KnnspectError, ParameterError
from knnspect.views.variants import Variants

__all__ = ["IsVariants"]


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
