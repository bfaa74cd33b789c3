"""Position windows: how far from its own place the neighbours of a cell may lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from knnspect import _core
from knnspect.errors import ParameterError
from knnspect.validation import check_window

__all__ = ["Window", "fewest_cells", "radii_of", "refuse_window"]

#: What users give: nothing, one number, or one (or None) for each level.
Window: TypeAlias = int | Sequence[int | None] | None


def radii_of(window: object, n_levels: int) -> tuple[int | None, ...] | None:
    """Return the radius of a window on each level; None if there is no window.

    Parameters
    ----------
    window : int, sequence of (int or None), or None
        As of `Search`.
    n_levels : int
        Number of levels of the gallery.

    Raises
    ------
    ParameterError, DTypeError
        If it is of another kind, or has not one number for each level.

    Examples
    --------
    >>> radii_of(2, 3), radii_of([None, 1], 2), radii_of([None, None], 2)
    ((2, None, None), (None, 1), None)
    """
    checked = check_window(window)
    if isinstance(checked, int):
        checked = (checked, *[None] * (n_levels - 1))
    if checked is None or all(radius is None for radius in checked):
        return None
    if len(checked) != n_levels:
        raise ParameterError(
            f"window: expected one number, or one for each of {n_levels} levels, got "
            f"{len(checked)}",
            parameter="window",
        )
    return checked


def fewest_cells(shapes: list[tuple[int, int, int]], window: object) -> int:
    """Return how many cells of a gallery image every cell is compared with at least.

    Parameters
    ----------
    shapes : list of (int, int, int)
        ``(height, width, channels)`` of each level.
    window : int, sequence of (int or None), or None
        As of `Search`.

    Examples
    --------
    >>> fewest_cells([(8, 8, 3)], None), fewest_cells([(8, 8, 3)], 1)
    (64, 4)
    """
    radii = radii_of(window, len(shapes))
    bounds = None if radii is None else _core.window_bounds(shapes, list(radii))
    if bounds is None:
        return shapes[0][0] * shapes[0][1]
    rows, columns = (min(end - start for start, end in ranges) for ranges in bounds)
    return rows * columns


def refuse_window(window: object, n_levels: int) -> None:
    """Raise a ParameterError if a coreset is to be searched within a window.

    A coreset was picked such that every row of the gallery lies near one of it, wherever that is:
    normal cells would be far from what it has at their place, if it has anything there.
    """
    if radii_of(window, n_levels) is not None:
        raise ParameterError(
            "window: a coreset may have no row near a place: use coreset=None, or search the "
            "gallery itself; or without a window",
            parameter="window",
        )
