"""Several pictures of one part, told apart by their names: part and light."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from knnspect.constraints import Bad, Constraint
from knnspect.errors import DTypeError, KnnspectError, ParameterError

__all__ = ["IsLightPattern", "LightPattern", "PictureName"]

_EXAMPLE = r"such as {part}_{light}.png or (?P<part>.+)_(?P<light>top|side)\.png"
#: What the parts of a simple pattern stand for; a star: anything within a name.
_SIMPLE = {"{part}": "(?P<part>[^/]+)", "{light}": "(?P<light>[^/]+?)", "*": "[^/]*"}


class PictureName(NamedTuple):
    """Which part a picture shows, and in which light."""

    part: str
    light: str


@dataclass(frozen=True)
class LightPattern:
    r"""Tells from the id of a picture which part it shows, and in which light.

    Parameters
    ----------
    text : str
        A simple pattern, such as ``{part}_{light}.png`` or ``{light}/{part}.png``, in which ``*``
        stands for anything else; or a regular expression with the groups ``part`` and ``light``. It
        is that of the end of an id, from the beginning of a folder's or a file's name on; the
        folders before it belong to the part.

    Raises
    ------
    ParameterError
        If it has no part or no light, or is no regular expression.
    DTypeError
        If it is no text.

    Examples
    --------
    >>> LightPattern("{part}_{light}.png").of("good/a_1_top.png")
    PictureName(part='good/a_1', light='top')
    >>> LightPattern("{light}/{part}.*").of("side/7.jpg")
    PictureName(part='7', light='side')
    >>> LightPattern(r"(?P<part>\d+)-(?P<light>top|side)\.png").of("7-left.png") is None
    True
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DTypeError(f"expected a pattern of names, got {type(self.text).__name__}")
        pattern = self._pattern
        if not {"part", "light"} <= set(pattern.groupindex):
            raise ParameterError(
                f"expected a pattern with a part and a light, {_EXAMPLE}, got {self.text!r}"
            )

    @property
    def _pattern(self) -> re.Pattern[str]:
        text = self.text
        if "{part}" in text or "{light}" in text:
            parts = re.split(r"(\{part\}|\{light\}|\*)", text)
            text = "".join(_SIMPLE.get(part, re.escape(part)) for part in parts)
        try:
            return re.compile(f"(?P<_before>(?:.*/)?)(?:{text})")  # which `re` keeps
        except re.error as error:
            raise ParameterError(
                f"expected a pattern, {_EXAMPLE}, got {self.text!r}: {error}"
            ) from None

    def of(self, id_: str) -> PictureName | None:
        """Return the part and the light of a picture, by its id; None if it does not match."""
        found = self._pattern.fullmatch(id_)
        if found is None or not found["part"] or not found["light"]:
            return None
        return PictureName(found["_before"] + found["part"], found["light"])

    def __str__(self) -> str:
        return self.text


class IsLightPattern(Constraint):
    """The text of a `LightPattern`.

    >>> IsLightPattern().parse("lights", "{part}_{light}.png")
    '{part}_{light}.png'
    """

    metavar = "PATTERN"

    def check(self, name: str, value: Any) -> None:
        """Check that it is one."""
        try:
            LightPattern(value)
        except KnnspectError as error:
            raise type(error)(f"{name}: {error}") from None

    def bad_values(self) -> Iterator[Bad]:
        """Yield what is no pattern."""
        yield None, DTypeError
        yield "{part}.png", ParameterError
        yield "(?P<part>.+", ParameterError
