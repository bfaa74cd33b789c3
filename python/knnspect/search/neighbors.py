"""The result of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnspect.search.stats import SearchStats

__all__ = ["Neighbors"]


@dataclass(frozen=True, eq=False, repr=False)
class Neighbors:
    """The nearest gallery cells of every cell of a query, nearest first.

    Parameters
    ----------
    sq_distances : ndarray of float32, shape (n_images, height, width, k)
        Squared L2 distances between upsampled, concatenated features. (`LateFusion` says what they
        are where each level was searched on its own.)
    image_index : ndarray of uint32, shape (n_images, height, width, k)
        The gallery image of each neighbour, as a place in `image_ids`.
    cells : ndarray of uint32, shape (n_images, height, width, k, 2)
        Where in that image: (row, column) at the finest level. Convert them before you subtract:
        differences of unsigned integers wrap around.
    image_ids : tuple of str
        Ids of the gallery images that were searched, sorted.
    stats : SearchStats, optional
        The pairs that the search compared, if the backend counts them. They are of the whole
        search: a selection of its query images has none.
    missing : tuple of str, default ()
        Of a sharded gallery, the names of the shards that were left out, as they could not be
        opened and that was allowed.

    Examples
    --------
    >>> import numpy as np
    >>> import knnspect as ks
    >>> gallery = ks.Gallery()
    >>> normal = np.array([[0, 1], [2, 3]], "f4").reshape(1, 2, 2, 1)
    >>> _ = gallery.add(ks.FeaturePyramid([normal]), ids=["a"])
    >>> neighbors = gallery.search(ks.FeaturePyramid([normal + 0.25]))
    >>> neighbors.sq_distances[0, 0, 0], neighbors.images[0, 1, 0], neighbors.cells[0, 1, 0]
    (array([0.0625], dtype=float32), array(['a'], dtype=object), array([[1, 0]], dtype=uint32))
    """

    sq_distances: NDArray[np.float32]
    image_index: NDArray[np.uint32]
    cells: NDArray[np.uint32]
    image_ids: tuple[str, ...]
    stats: SearchStats | None = None
    missing: tuple[str, ...] = ()

    @property
    def work(self) -> SearchStats | None:
        """The former name of `stats`."""
        return self.stats

    @property
    def images(self) -> NDArray[np.object_]:
        """Ids of the gallery images, shape (n_images, height, width, k), as an array of str."""
        ids: NDArray[np.object_] = np.array(self.image_ids, dtype=object)[self.image_index]
        return ids

    def place(
        self, image: int, row: int, column: int, rank: int = 0
    ) -> tuple[str, tuple[int, int]]:
        """Return where one neighbour is.

        Parameters
        ----------
        image, row, column : int
            A cell of the query.
        rank : int, default 0
            Which of its neighbours: 0 is the nearest.

        Returns
        -------
        (str, (int, int))
            The id of the gallery image, and the cell in it.
        """
        row_there, column_there = self.cells[image, row, column, rank].tolist()
        id_ = self.image_ids[int(self.image_index[image, row, column, rank])]
        return id_, (row_there, column_there)

    @property
    def k(self) -> int:
        """Number of neighbours of each cell."""
        return int(self.sq_distances.shape[-1])

    def __len__(self) -> int:
        return int(self.sq_distances.shape[0])

    def __getitem__(self, images: int | slice) -> Neighbors:
        """Select the neighbours of some query images; an integer keeps the axis."""
        if not isinstance(images, slice):
            if not -len(self) <= images < len(self):
                raise IndexError(f"image {images} of the neighbours of {len(self)} images")
            images = slice(images % len(self), images % len(self) + 1)
        return Neighbors(
            self.sq_distances[images],
            self.image_index[images],
            self.cells[images],
            self.image_ids,
            missing=self.missing,
        )

    @classmethod
    def below_each_other(cls, strips: Sequence[Neighbors]) -> Neighbors:
        """Join what was found for the rows of the same images, some rows at a time.

        Parameters
        ----------
        strips : sequence of Neighbors
            At least one, of the same gallery, from the uppermost to the lowest. `stats` are summed.
        """
        if len(strips) == 1:
            return strips[0]
        sq_distances, image_index, cells = (
            np.concatenate([getattr(strip, name) for strip in strips], axis=1)
            for name in ("sq_distances", "image_index", "cells")
        )
        stats = SearchStats.sum_of(strip.stats for strip in strips)
        of_all = strips[0].image_ids, stats, strips[0].missing
        return cls(sq_distances, image_index, cells, *of_all)

    def __repr__(self) -> str:
        n_images, height, width, k = self.sq_distances.shape
        return f"Neighbors(n_images={n_images}, cells={height}x{width}, k={k})"
