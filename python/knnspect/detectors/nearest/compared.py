"""What the comparison of an image with the normal ones gives, before there is a map."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from knnspect.search import Neighbors

__all__ = ["Compared"]


class Compared(NamedTuple):
    """What the comparison of an image with the normal ones gives.

    Parameters
    ----------
    neighbors : Neighbors
        The normal cells that are nearest to each of its cells.
    cells : ndarray of float, shape (height, width)
        The scores of its cells, evened out at the border; 0 where they are masked.
    own_score : float
        The image score of the method's paper; NaN where ``score`` asks for another one.
    images : tuple of (str, float)
        The normal images that were chosen for it, nearest first, and their squared distances.
    """

    neighbors: Neighbors
    cells: NDArray[Any]
    own_score: float
    images: tuple[tuple[str, float], ...] = ()
