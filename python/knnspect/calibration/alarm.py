"""What a drift monitor says when scores have changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from knnspect.errors import DTypeError
from knnspect.validation import check_choice, check_count

__all__ = ["DIRECTIONS", "DriftAlarm"]

DIRECTIONS = ("higher", "lower")


@dataclass(frozen=True)
class DriftAlarm:
    """The scores of judged images have changed.

    Attributes
    ----------
    at : int
        The image with which the alarm was raised: its number among those given, from 0.
    since : int
        The image with which the change is likely to have begun.
    direction : {"higher", "lower"}
        How scores have changed since.
    image, since_image : str or None
        The names of both, where they were given.
    """

    at: int
    since: int
    direction: str
    image: str | None = None
    since_image: str | None = None

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> DriftAlarm:
        """Return the alarm of which `state` has the attributes, or raise an error."""
        check_count("at", state["at"], minimum=0)
        check_count("since", state["since"], minimum=0, maximum=state["at"])
        check_choice("direction", state["direction"], DIRECTIONS)
        names = (state["image"], state["since_image"])
        if not all(name is None or isinstance(name, str) for name in names):
            raise DTypeError("expected names of images")
        return cls(**state)
