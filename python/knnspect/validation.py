"""Checks of parameters, with messages that name the parameter; how messages name images."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from knnspect.errors import DTypeError, ParameterError

__all__ = [
    "check_choice",
    "check_count",
    "check_ids",
    "check_positive",
    "check_window",
    "describe_value",
    "has_surrogates",
    "parse_numbers",
    "some_ids",
    "stored_history",
]


def check_count(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """Return an integer parameter, or raise a ParameterError or DTypeError that names it.

    >>> check_count("k", 5)
    5
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DTypeError(f"{name}: expected an integer, got {type(value).__name__}", parameter=name)
    if value < minimum:
        raise ParameterError(f"{name}: expected at least {minimum}, got {value}", parameter=name)
    if maximum is not None and value > maximum:
        raise ParameterError(f"{name}: expected at most {maximum}, got {value}", parameter=name)
    return int(value)


def check_positive(
    name: str, value: object, or_zero: bool = False, below: float = math.inf
) -> float:
    """Return a finite positive number, or raise a ParameterError or DTypeError that names it.

    >>> check_positive("sigma", 4), check_positive("false_alarm_rate", 0.01, below=1)
    (4.0, 0.01)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise DTypeError(f"{name}: expected a number, got {type(value).__name__}", parameter=name)
    number = float(value)
    if not 0 <= number < below or (number == 0 and not or_zero):
        kind = "a finite number" if math.isinf(below) else "a number"
        kind += " of at least 0" if or_zero else " above 0"
        kind += "" if math.isinf(below) else f" and below {below:g}"
        raise ParameterError(f"{name}: expected {kind}, got {value}", parameter=name)
    return number


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return a word that is among `choices`, or raise a ParameterError that names them.

    >>> check_choice("score", "map", ["image", "map"])
    'map'
    """
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(repr(choice) for choice in choices)
        raise ParameterError(f"{name}: expected one of {words}, got {value!r}", parameter=name)
    return value


def check_window(window: object, name: str = "window") -> tuple[int | None, ...] | int | None:
    """Return a window, or raise a ParameterError or DTypeError that names what is wrong with it.

    >>> check_window(2), check_window([4, None])
    (2, (4, None))
    """
    if window is None or isinstance(window, (int, np.integer)):
        return None if window is None else min(check_count(name, window, 0), sys.maxsize)
    if isinstance(window, str) or not isinstance(window, (Sequence, np.ndarray)):
        raise DTypeError(
            f"{name}: expected None, a whole number, or one for each level, got "
            f"{type(window).__name__}",
            parameter=name,
        )
    if not len(window):
        raise ParameterError(
            f"{name}: expected one number for each level, got none", parameter=name
        )
    return tuple(
        None if radius is None else min(check_count(f"{name}[{level}]", radius, 0), sys.maxsize)
        for level, radius in enumerate(window)
    )


def check_ids(ids: object, name: str) -> list[str]:
    """Return a list of ids, or raise a DTypeError or ParameterError that names the first bad one.

    >>> check_ids(("a", "b"), "ids")
    ['a', 'b']
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise DTypeError(
            f"{name}: expected a sequence of str, got {describe_value(ids)}", parameter=name
        )
    checked = list(ids)
    for index, value in enumerate(checked):
        if not isinstance(value, str):
            raise DTypeError(
                f"{name}[{index}]: expected a str, got {type(value).__name__}", parameter=name
            )
        if has_surrogates(value):
            raise ParameterError(
                f"{name}[{index}]: expected valid Unicode, got {value!r}", parameter=name
            )
    return checked


def has_surrogates(text: str) -> bool:
    r"""Return whether a text holds halves of characters, which UTF-8 cannot write.

    >>> has_surrogates("ä"), has_surrogates("\udce4")
    (False, True)
    """
    return not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text)


def describe_value(value: object) -> str:
    """Describe a value of the wrong type in a message.

    >>> describe_value("a"), describe_value(3)
    ("the single str 'a'", 'int')
    """
    return f"the single str {value!r}" if isinstance(value, str) else type(value).__name__


def parse_numbers(name: str, text: str, separator: str) -> tuple[int, ...]:
    """Return the whole numbers that a text lists, or raise a ParameterError that names it.

    >>> parse_numbers("shape", "56x56", "x")
    (56, 56)
    """
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError:
        raise ParameterError(
            f"{name}: expected whole numbers separated by {separator!r}, got {text!r}",
            parameter=name,
        ) from None


def some_ids(ids: Iterable[str]) -> str:
    """Name some images in a message.

    >>> some_ids("abc"), some_ids(f"{i}.png" for i in range(7))
    ('a, b, c', '0.png, 1.png, 2.png, 3.png, 4.png, and 2 more')
    """
    names = list(ids)
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}, and {len(names) - 5} more"


def stored_history(value: Any) -> list[dict[str, float]]:
    """Return the losses of each epoch, as they are kept in files.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    history = [dict(entry) for entry in value]
    for loss in (loss for entry in history for loss in entry.values()):
        if not isinstance(loss, (int, float)):
            raise TypeError(f"expected losses that are numbers, got {type(loss).__name__}")
    return history
