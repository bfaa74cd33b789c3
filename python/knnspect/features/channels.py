"""How images enter an ONNX network: values of the parameters that say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from knnspect.constraints import Bad, Choice, Constraint
from knnspect.errors import DTypeError, ParameterError
from knnspect.validation import check_positive

__all__ = ["COLOR_ORDERS", "LAYOUTS", "ChannelMeans", "ChannelScales"]

#: How the input of an ONNX network is laid out, and in which order its channels are.
LAYOUTS = Choice("NCHW", "NHWC")
COLOR_ORDERS = Choice("rgb", "bgr")


class ChannelMeans(Constraint):
    """A number for each of three channels, or one for all of them.

    >>> ChannelMeans().parse("mean", "0.485,0.456,0.406"), ChannelMeans().parse("mean", "0.5")
    ((0.485, 0.456, 0.406), 0.5)
    """

    metavar = "NUM|NUM,NUM,NUM"
    _or_zero = True

    def kept(self, value: Any) -> Any:
        """Return an array as a tuple, which can be compared."""
        return tuple(value.tolist()) if isinstance(value, np.ndarray) and value.ndim else value

    def check(self, name: str, value: Any) -> None:
        """Check type, number and bounds."""
        self.of_each(name, value)

    def of_each(self, name: str, value: Any) -> tuple[float, ...]:
        """Return the number of each channel, or raise a ParameterError or DTypeError."""
        if isinstance(value, str):
            raise DTypeError(f"{name}: expected one number or three, got {value!r}")
        numbers = value if isinstance(value, Sequence) else (value,) * 3
        if len(numbers) != 3:
            raise ParameterError(f"{name}: expected one number or three, got {len(numbers)}")
        checked = tuple(check_positive(name, number, self._or_zero) for number in numbers)
        if max(checked) > 1:
            raise ParameterError(
                f"{name}: expected at most 1, as values of images lie in [0, 1], got "
                f"{max(checked):g}; mean and std for values up to 255 are to be divided by 255"
            )
        return checked

    def parse(self, name: str, text: str) -> float | tuple[float, ...]:
        """Return one number, or several separated by commas."""
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise ParameterError(f"{name}: expected one number or three, got {text!r}") from None
        return numbers[0] if len(numbers) == 1 else numbers

    def bad_values(self) -> Iterator[Bad]:
        """Yield other types, numbers of numbers, and numbers."""
        yield from ((value, DTypeError) for value in ("0.5", True, ("a", "b", "c")))
        yield from ((value, ParameterError) for value in ((), (0.5, 0.5), 123.7, -0.5, np.nan))


class ChannelScales(ChannelMeans):
    """The same, above 0."""

    _or_zero = False

    def bad_values(self) -> Iterator[Bad]:
        """Yield 0, too."""
        yield from super().bad_values()
        yield from ((value, ParameterError) for value in (0, (1.0, 0.0, 1.0)))
