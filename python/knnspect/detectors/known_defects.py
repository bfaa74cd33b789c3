"""Defects that were rejected before, and are recognised when they come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid

__all__ = ["KnownCells", "KnownDefect", "KnownDefects"]


@dataclass(frozen=True)
class KnownDefect:
    """A rejected defect that a place looks like.

    Parameters
    ----------
    name : str
        What it was called.
    image : str
        The image that was rejected.
    sq_distance : float
        Squared L2 distance between the features of both places.
    """

    name: str
    image: str
    sq_distance: float


@dataclass(frozen=True, eq=False)
class KnownCells:
    """Which cells of an image are nearer to a rejected defect than to all normal cells.

    Parameters
    ----------
    defects : sequence of (str, str)
        The images that were rejected, and what their defects are called.
    which : ndarray of int64, shape (height, width)
        For each cell the defect, as a place in `defects`; -1 where normal cells are nearer.
    sq_distances : ndarray of float32, shape (height, width)
        Squared L2 distance to the nearest defect.
    """

    defects: Sequence[tuple[str, str]]
    which: NDArray[np.int64]
    sq_distances: NDArray[np.float32]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        height, width = self.which.shape
        return height, width

    def at(self, cell: tuple[int, int]) -> KnownDefect | None:
        """Return the defect that a cell looks like; None if normal cells are nearer."""
        which = int(self.which[cell])
        if which < 0:
            return None
        image, name = self.defects[which]
        return KnownDefect(name, image, float(self.sq_distances[cell]))


class KnownDefects:
    """The features of defects that were rejected.

    Parameters
    ----------
    rows : sequence of (str, str, ndarray of float32)
        For each rejected image its id, what the defect is called, and the upsampled, concatenated
        features of its cells, shape (n, n_features).

    Examples
    --------
    >>> known = KnownDefects([("a.png", "scratch", np.array([[5.0]], "f4"))])
    >>> cells = known.find(FeaturePyramid([np.array([[[[1.0], [6.0]]]], "f4")]), "block", [[2, 3]])
    >>> cells.at((0, 0)), cells.at((0, 1)).name
    (None, 'scratch')
    """

    def __init__(self, rows: Sequence[tuple[str, str, NDArray[np.float32]]]) -> None:
        self._defects = [(image, name) for image, name, _ in rows]
        self._of_row = np.repeat(np.arange(len(rows)), [len(features) for *_, features in rows])
        self._gallery = Gallery()
        features = np.concatenate([features for *_, features in rows])
        self._gallery.add(FeaturePyramid([features[None, None]]), ["rows"])

    def find(self, image: FeaturePyramid, upsample: str, normal: Any, **how: Any) -> KnownCells:
        """Return which cells of an image look like a defect.

        Parameters
        ----------
        image : FeaturePyramid
            One image.
        upsample : {"bilinear", "block"}
            How its levels are brought together.
        normal : array-like, shape (height, width)
            Squared L2 distances of its cells to the nearest normal ones.
        **how
            As `Gallery.search` takes them.
        """
        how.pop("window", None)  # a defect may be anywhere
        rows = FeaturePyramid([image.concatenated(upsample)])  # type: ignore[arg-type]
        found = self._gallery.search(rows, 1, **how)
        sq_distances = found.sq_distances[0, ..., 0]
        which = self._of_row[found.cells[0, ..., 0, 1]]
        is_nearer = sq_distances < np.asarray(normal)
        return KnownCells(self._defects, np.where(is_nearer, which, -1), sq_distances)
