"""What a fitted detector has learnt, as files have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from knnspect.gallery import Coreset, Gallery

__all__ = ["State"]


@dataclass(frozen=True)
class State:
    """What a fitted detector has learnt, as files have it.

    Parameters
    ----------
    values : dict
        JSON-compatible, by name; names of parameters are taken.
    arrays : dict of str to ndarray
        By name.
    searched : Gallery or Coreset, optional
        What it searches.
    about_images : dict of str to ndarray
        Arrays that a folder of features has, too, and that need not be written there.
    of_fit : sequence of str, optional
        The ids in a gallery in a folder that did not come by a correction; None: all.
    """

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    searched: Gallery | Coreset | None = None
    about_images: dict[str, NDArray[Any]] = field(default_factory=dict)
    of_fit: Sequence[str] | None = None
