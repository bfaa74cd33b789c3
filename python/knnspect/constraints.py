"""What values a parameter may have, as data: checked, read from text, and tried with bad values."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from knnspect.errors import DTypeError, ParameterError
from knnspect.validation import check_choice, check_count, check_positive, check_window

__all__ = [
    "Choice",
    "Constraint",
    "Count",
    "Flag",
    "Images",
    "Instance",
    "Optional",
    "PositionWindow",
    "Positive",
    "ShareOrCount",
]

#: A value that is refused, and the error that refuses it.
Bad = tuple[Any, type[Exception]]


class Constraint(ABC):
    """The values that a parameter may have."""

    #: How a command line names a value.
    metavar: str = "TEXT"

    @abstractmethod
    def check(self, name: str, value: Any) -> None:
        """Raise a ParameterError or DTypeError that names the parameter, for other values."""

    def kept(self, value: Any) -> Any:
        """Return what an object keeps of a value that is given: the value, unless it is read first.

        It raises nothing: `check` says what is wrong. What it returned it leaves as it is.
        """
        return value

    def parse(self, name: str, text: str) -> Any:
        """Return the value that a text stands for, on a command line or in a settings file.

        Parameters
        ----------
        name : str
            What an error calls the parameter.
        text : str
            The text.

        Raises
        ------
        ParameterError
            If it stands for no value of the right type. The value is not checked.
        """
        return text

    def saved(self, value: Any) -> Any:
        """Return a value as a model file keeps it: something that JSON has."""
        return value

    def restored(self, name: str, saved: Any) -> Any:
        """Return the value of which `saved` made what a model file keeps; it is not checked."""
        return saved

    @abstractmethod
    def bad_values(self) -> Iterator[Bad]:
        """Yield some values that `check` refuses, each with its error."""


@dataclass(frozen=True)
class Count(Constraint):
    """A whole number.

    >>> Count().parse("k", "5")
    5
    >>> Count(minimum=0).check("seed", -1)
    Traceback (most recent call last):
    knnspect.errors.ParameterError: seed: expected at least 0, got -1
    """

    minimum: int = 1
    maximum: int | None = None
    metavar = "INT"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        check_count(name, value, self.minimum, self.maximum)

    def parse(self, name: str, text: str) -> int:
        """Return the number."""
        try:
            return int(text)
        except ValueError:
            raise ParameterError(f"{name}: expected a whole number, got {text!r}") from None

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no whole number, and what lies outside the bounds."""
        yield from ((value, DTypeError) for value in ("1", 1.5, True, None))
        yield self.minimum - 1, ParameterError
        if self.maximum is not None:
            yield self.maximum + 1, ParameterError


@dataclass(frozen=True)
class Positive(Constraint):
    """A finite number above 0.

    Parameters
    ----------
    or_zero : bool, default False
        0 may be, too.
    below, at_most : float, optional
        What it must be smaller than, or must not exceed.
    """

    or_zero: bool = False
    below: float | None = None
    at_most: float | None = None
    metavar = "NUM"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        below = math.inf if self.below is None else self.below
        number = check_positive(name, value, self.or_zero, below)
        if self.at_most is not None and number > self.at_most:
            raise ParameterError(f"{name}: expected at most {self.at_most:g}, got {value}")

    def parse(self, name: str, text: str) -> float:
        """Return the number."""
        try:
            return float(text)
        except ValueError:
            raise ParameterError(f"{name}: expected a number, got {text!r}") from None

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no number, and what lies outside the bounds."""
        yield from ((value, DTypeError) for value in ("1", True, None, [1.0]))
        yield from ((value, ParameterError) for value in (-1.0, float("nan"), float("inf")))
        if not self.or_zero:
            yield 0, ParameterError
        if self.below is not None:
            yield self.below, ParameterError
        if self.at_most is not None:
            yield self.at_most * 1.01, ParameterError


@dataclass(frozen=True)
class ShareOrCount(Constraint):
    """A share, as a float of at most 1, or a whole number.

    >>> ShareOrCount().parse("coreset", "0.01"), ShareOrCount().parse("coreset", "1568")
    (0.01, 1568)
    """

    metavar = "SHARE|INT"

    def check(self, name: str, value: Any) -> None:
        """Check the type and the bounds."""
        if not isinstance(value, (float, np.floating)):
            check_count(name, value)
        elif check_positive(name, value) > 1:
            raise ParameterError(f"{name}: expected a share of at most 1.0, got {value}")

    def parse(self, name: str, text: str) -> float | int:
        """Return an integer if the text is one, else a float."""
        try:
            return int(text) if text.isdecimal() else float(text)
        except ValueError:
            raise ParameterError(f"{name}: expected a share or a number, got {text!r}") from None

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is neither."""
        yield from ((value, ParameterError) for value in (0, 0.0, -0.1, 1.01, float("nan")))
        yield from ((value, DTypeError) for value in ("all", True))


class Choice(Constraint):
    """One of some words."""

    metavar = "WORD"

    def __init__(self, *words: str) -> None:
        self.words = words

    def check(self, name: str, value: Any) -> None:
        """Check that it is one of the words."""
        check_choice(name, value, self.words)

    def bad_values(self) -> Iterator[Bad]:
        """Yield another word, and what is no word."""
        yield from ((value, ParameterError) for value in ("no such word", None, np.int8))


class Flag(Constraint):
    """True or False."""

    metavar = "true|false"

    def check(self, name: str, value: Any) -> None:
        """Check the type."""
        if not isinstance(value, (bool, np.bool_)):
            raise DTypeError(f"{name}: expected True or False, got {type(value).__name__}")

    def parse(self, name: str, text: str) -> bool:
        """Return True for "true" and False for "false"."""
        words = {"true": True, "false": False}
        if text.lower() not in words:
            raise ParameterError(f"{name}: expected true or false, got {text!r}")
        return words[text.lower()]

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is neither."""
        yield from ((value, DTypeError) for value in (1, "true", None))


class Instance(Constraint):
    """An object of a class, or of one of several."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = kinds

    def check(self, name: str, value: Any) -> None:
        """Check the type."""
        if not isinstance(value, self.kinds):
            names = " or ".join(kind.__name__ for kind in self.kinds)
            article = "an" if names[0] in "AEIOU" else "a"
            raise DTypeError(f"{name}: expected {article} {names}, got {type(value).__name__}")

    def bad_values(self) -> Iterator[Bad]:
        """Yield a text and None."""
        yield from ((value, DTypeError) for value in ("none", None))


class Images(Constraint):
    """Images as `knnspect.data.open_images` takes them: a path, a list, or an array.

    Which are read is checked when they are.
    """

    metavar = "PATH"

    def check(self, name: str, value: Any) -> None:
        """Check the type."""
        if not isinstance(value, (str, os.PathLike, _Given)):
            raise DTypeError(
                f"{name}: expected a path, a list of paths or arrays, or an array, got "
                f"{type(value).__name__}"
            )

    def kept(self, value: Any) -> Any:
        """Return a list or an array as something that can be compared."""
        return _Given(value) if isinstance(value, (list, tuple, np.ndarray)) else value

    @staticmethod
    def given(value: Any) -> Any:
        """Return what was given of which `kept` returned the value."""
        return value.images if isinstance(value, _Given) else value

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no image."""
        yield from ((value, DTypeError) for value in (1, True, None))


@dataclass(frozen=True, eq=False)
class _Given:
    """Images that were given, as a list or an array."""

    images: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Given) or len(self.images) != len(other.images):
            return False
        return all(map(np.array_equal, self.images, other.images))

    __hash__ = None  # type: ignore[assignment]  # arrays may be changed

    def __repr__(self) -> str:
        return f"<{len(self.images)} images>"


class PositionWindow(Constraint):
    """None, a radius on the finest level, or one or None for each level; see `Search`.

    >>> PositionWindow().parse("window", "2"), PositionWindow().parse("window", "none,1")
    (2, (None, 1))
    """

    metavar = "INT[,INT]|none"

    def check(self, name: str, value: Any) -> None:
        """Check the types and that no number is negative."""
        check_window(value, name)

    def parse(self, name: str, text: str) -> int | tuple[int | None, ...] | None:
        """Return one number, or numbers separated by commas, "none" for any distance."""
        try:
            radii = [None if part == "none" else int(part) for part in text.split(",")]
        except ValueError:
            raise ParameterError(
                f"{name}: expected whole numbers or none, separated by commas, got {text!r}",
                parameter=name,
            ) from None
        return radii[0] if len(radii) == 1 else tuple(radii)

    def restored(self, name: str, saved: Any) -> Any:
        """Return one number, or a tuple."""
        return tuple(saved) if isinstance(saved, list) else saved

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no whole number, and negative ones."""
        yield from ((value, DTypeError) for value in ("1", 1.5, True, [1.0], [True], {1}))
        yield from ((value, ParameterError) for value in (-1, [1, -1], []))


class Optional(Constraint):
    """None, or what another constraint allows.

    >>> Optional(Count()).parse("patience", "none") is None
    True
    """

    def __init__(self, of: Constraint) -> None:
        self.of = of
        self.metavar = f"{of.metavar}|none"

    def check(self, name: str, value: Any) -> None:
        """Check anything but None."""
        if value is not None:
            self.of.check(name, value)

    def kept(self, value: Any) -> Any:
        """Return None, or what the other constraint makes of a value."""
        return None if value is None else self.of.kept(value)

    def parse(self, name: str, text: str) -> Any:
        """Return None for "none"."""
        if text == "none":
            return None
        try:
            return self.of.parse(name, text)
        except ParameterError as error:
            problem = str(error).replace(", got", " or none, got")
            raise ParameterError(problem) from None

    def saved(self, value: Any) -> Any:
        """Return None, or what the other constraint makes of a value."""
        return None if value is None else self.of.saved(value)

    def restored(self, name: str, saved: Any) -> Any:
        """Return None, or what the other constraint makes of it."""
        return None if saved is None else self.of.restored(name, saved)

    def bad_values(self) -> Iterator[Bad]:
        """Yield what the other constraint refuses, but for None."""
        yield from (bad for bad in self.of.bad_values() if bad[0] is not None)
