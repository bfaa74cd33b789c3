"""The protocol of galleries and coresets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from knnspect.pyramid import FeaturePyramid
from knnspect.search.backend import Backend
from knnspect.search.neighbors import Neighbors
from knnspect.search.window import Window

__all__ = ["Searchable"]


class Searchable(Protocol):
    """Rows of normal features that know which image and cell they came from.

    A row is the upsampled, concatenated feature of one cell of one image. `Gallery` keeps the rows
    of all cells, `Coreset` some of them. Detectors hold one or the other, and search both alike.
    """

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the normal images, sorted."""
        ...

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level of the images, and of queries."""
        ...

    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled."""
        ...

    @property
    def n_images(self) -> int:
        """Number of normal images."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        ...

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        *,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> Neighbors:
        """Find the `k` nearest rows of every cell of a query, exactly; within a window, if any."""
        ...

    def without(self, ids: Sequence[str]) -> Searchable:
        """Return the same rows without those of some images; nothing is left if these are all.

        The original stays as it is. What both have in common they share where that is possible.

        Raises
        ------
        ParameterError
            If an id is not among `image_ids`.
        """
        ...

    def around(
        self,
        image_id: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a row by its place, and the rows that are nearest to it.

        Parameters
        ----------
        image_id : str
            The image that the row came from.
        cell : (int, int)
            Its cell there: (row, column) at the finest level.
        n : int
            How many of the nearest rows, the row itself included.
        threads, backend, window
            As in `search`.

        Returns
        -------
        row : ndarray of float32, shape (n_features,)
            The row.
        nearest : ndarray of float32, shape (n, n_features)
            Its `n` nearest, nearest first.

        Raises
        ------
        ParameterError
            If there is no such row, or fewer than `n`.
        """
        ...
