"""Coresets: a few rows of a gallery that lie near all others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend
from knnspect.errors import DTypeError, ParameterError, ShapeError, StoreError
from knnspect.files import as_damage, check_path
from knnspect.gallery.coreset_file import read_parts
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.pyramid import FeaturePyramid, describe_shapes, is_of_kind
from knnspect.search import Neighbors, Window
from knnspect.search.window import refuse_window
from knnspect.validation import check_count, check_ids

__all__ = ["Coreset"]


class Coreset:
    """Some rows of a gallery, searched in place of all of them.

    A row is the upsampled, concatenated feature of one cell of one image. `Gallery.coreset` picks
    rows such that every row of the gallery lies near one of them.

    Attributes
    ----------
    rows : ndarray of float32, shape (n_rows, n_features)
        The rows, sorted by (image id, row, column) of where they came from; read-only.
    image_ids : tuple of str
        Ids of the images of the gallery, also of those of which no row was picked.
    image_index : ndarray of int64, shape (n_rows,)
        The image of each row, as a place in `image_ids`.
    cells : ndarray of int64, shape (n_rows, 2)
        Its cell in that image: (row, column) at the finest level.
    order : ndarray of int64, shape (n_rows,)
        ``rows[order]`` are the rows in the order in which they were picked.
    upsample : {"bilinear", "block"}
        How coarse levels are brought to the resolution of the finest one.
    shapes : list of (int, int, int)
        ``(height, width, channels)`` of each level of the gallery; a query may have other grids.
    sq_radius : float or None
        Every row of the gallery is within this squared L2 distance of a row of the coreset. None
        where a projection was used, and where rows were removed.

    Source
    ------
    Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2022), section 3.2.

    Examples
    --------
    >>> import numpy as np, knnspect as ks
    >>> rng = np.random.default_rng(0)
    >>> levels = [rng.random((5, 8, 8, 3), dtype="f4"), rng.random((5, 4, 4, 16), dtype="f4")]
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(FeaturePyramid(levels))
    >>> coreset = gallery.coreset(0.1)
    >>> coreset
    Coreset(n_rows=32, n_features=19, n_images=5, upsample='bilinear')
    >>> str(coreset.search(FeaturePyramid(levels)[2]).images[0, 0, 0, 0])
    '000002'
    """

    image_ids: tuple[str, ...]
    image_index: NDArray[np.int64]
    cells: NDArray[np.int64]
    order: NDArray[np.int64]
    upsample: str
    shapes: list[tuple[int, int, int]]
    sq_radius: float | None

    def __init__(self) -> None:
        raise TypeError("a Coreset comes from Gallery.coreset or Coreset.open")

    @property
    def rows(self) -> NDArray[np.float32]:
        """The rows, shape (n_rows, n_features)."""
        return self._rows

    @property
    def bank(self) -> ReadOnlyGallery:
        """The rows as a gallery of one image of one level, ``1 x n_rows``; empty without rows."""
        return self._bank

    @property
    def n_images(self) -> int:
        """Number of images of the gallery, also of those of which no row was picked."""
        return len(self.image_ids)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of what is known of them."""
        return sum(part.nbytes for part in (self.rows, self.image_index, self.cells, self.order))

    def __len__(self) -> int:
        return len(self.rows)

    def __copy__(self) -> Coreset:
        coreset = Coreset.__new__(Coreset)
        coreset.__dict__.update(self.__dict__)  # removing replaces arrays, and changes none
        return coreset

    def __reduce__(self) -> tuple[Callable[..., Coreset], tuple[object, ...]]:
        known = (self.image_ids, self.image_index, self.cells, self.order)
        return Coreset.from_rows, (self.rows, *known, self.upsample, self.shapes, self.sq_radius)

    def __repr__(self) -> str:
        n_rows, n_features = self.rows.shape
        return (
            f"Coreset(n_rows={n_rows}, n_features={n_features}, n_images={len(self.image_ids)}, "
            f"upsample={self.upsample!r})"
        )

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> Neighbors:
        """Find the nearest rows of every cell of a query, exactly.

        Parameters
        ----------
        query : FeaturePyramid
            The images to look up; the levels and channels of the gallery's, on any grid.
        k : int, default 1
            Rows for each cell.
        threads : int, optional
            Number of threads; by default all that the process may use.
        backend : str or Backend, default "auto"
            The backend that searches; see `knnspect.backends`.
        window : None
            Windows are refused: a coreset may have no row near a place.

        Returns
        -------
        Neighbors
            Squared L2 distances between upsampled, concatenated features (rounded to float32), and
            the images and cells that the rows came from; ties go to the lowest (image id, row,
            column). `image_ids` are those of the coreset.

        Raises
        ------
        ShapeError
            If the query's levels differ from `shapes` in channels or relative sizes.
        ImageError
            If a feature of the query is NaN or infinite.
        ParameterError
            If `k` is not between 1 and the number of rows, `threads` less than 1, or with a window.
        DTypeError
            If an argument is of another type.
        MemoryError
            If the neighbours do not fit into memory.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> normal = FeaturePyramid([np.arange(16, dtype="f4").reshape(1, 4, 4, 1)])
        >>> _ = gallery.add(normal, ids=["a"])
        >>> neighbors = gallery.coreset(4).search(normal)
        >>> neighbors.cells[0, 0, 1, 0], neighbors.sq_distances[0, 0, 1, 0]
        (array([0, 0], dtype=uint32), np.float32(1.0))
        """
        refuse_window(window, len(self.shapes))
        if not isinstance(query, FeaturePyramid):
            raise DTypeError(
                f"query: expected a FeaturePyramid, got {type(query).__name__}", parameter="query"
            )
        # A row is by itself, whatever grid it came from.
        if not is_of_kind(query.shapes, self.shapes):
            raise ShapeError(
                f"the query's pyramid is {describe_shapes(query.shapes)}, "
                f"the coreset's is {describe_shapes(self.shapes)}"
            )
        if check_count("k", k) > len(self):
            raise ParameterError(
                f"k: expected at most the number of rows, {len(self)}, got {k}", parameter="k"
            )
        parts = query.concatenated_in_strips(self.upsample)  # type: ignore[arg-type]
        found = [
            self._bank.search(FeaturePyramid([part]), k, None, threads, backend) for part in parts
        ]
        return self.evidence(Neighbors.below_each_other(found))

    def evidence(self, found: Neighbors) -> Neighbors:
        """Return the images and cells that rows came from.

        Parameters
        ----------
        found : Neighbors
            The result of a search of `bank`, whose cells are ``(0, row)``.

        Returns
        -------
        Neighbors
            The same distances, with the images and cells that the rows came from.
        """
        at = found.cells[..., 1]
        images, cells = self.image_index[at].astype(np.uint32), self.cells[at].astype(np.uint32)
        return Neighbors(found.sq_distances, images, cells, self.image_ids, found.stats)

    def without(self, ids: Sequence[str]) -> Coreset:
        """Return the coreset without the rows that came from some images.

        Parameters
        ----------
        ids : sequence of str
            Some of `image_ids`.

        Returns
        -------
        Coreset
            A new one, as `remove` would leave this one; it may have no rows.

        Raises
        ------
        ParameterError
            If an id is not among `image_ids`.
        """
        coreset = copy(self)
        coreset.remove(ids)
        return coreset

    def around(
        self,
        image_id: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a row by its place, and the rows nearest to it; see `Searchable.around`."""
        refuse_window(window, len(self.shapes))
        image = self.image_ids.index(image_id) if image_id in self.image_ids else -1
        (at,) = np.nonzero((self.image_index == image) & (self.cells == cell).all(axis=1))
        if not len(at):
            raise ParameterError(f"image {image_id!r}, cell {tuple(cell)}: no row came from there")
        query = FeaturePyramid([self.rows[at][None, None]])
        found = self._bank.search(query, n, None, threads, backend)
        return self.rows[at[0]], self.rows[found.cells[0, 0, 0, :, 1]]

    def remove(self, ids: Sequence[str]) -> None:
        """Drop the rows that came from some images: all of them, or none when one is unknown.

        The rows that are left need not lie near all rows of the other images: if rows were
        dropped, `sq_radius` becomes None.

        Parameters
        ----------
        ids : sequence of str
            Some of `image_ids`.

        Raises
        ------
        ParameterError
            If an id is not among `image_ids`.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.eye(16, dtype="f4").reshape(2, 2, 4, 16)]))
        >>> coreset = gallery.coreset(16)
        >>> coreset.remove(["000000"])
        >>> coreset.image_ids, len(coreset)
        (('000001',), 8)
        """
        dropped = set(check_ids(ids, "ids"))
        for id_ in dropped.difference(self.image_ids):
            raise ParameterError(f"ids: there is no image {id_!r} in the coreset")
        kept = np.array([id_ not in dropped for id_ in self.image_ids], dtype=bool)
        stays = kept[self.image_index]
        if not stays.all():
            self.sq_radius = None
        ranks = np.cumsum(kept) - 1
        places = np.cumsum(stays) - 1
        self.image_ids = tuple(id_ for id_ in self.image_ids if id_ not in dropped)
        self.image_index = ranks[self.image_index[stays]]
        self.cells = self.cells[stays]
        self.order = places[self.order[stays[self.order]]]
        self._set_rows(self.rows[stays])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the coreset to a file, replacing what is there only when all is written.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum.

        Raises
        ------
        StoreError
            If the file cannot be written; what was there is then untouched.
        ParameterError
            If there are no rows.
        """
        metadata, tensors = self.state()
        self._bank.core.save(check_path(path), "coreset", metadata, tensors)

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> Coreset:
        """Open a saved coreset.

        Parameters
        ----------
        path : path-like
            A file that `save` wrote.
        verify : bool, default True
            Read the whole file once and compare its checksum.

        Returns
        -------
        Coreset
            As it was saved.

        Raises
        ------
        StoreError
            If the file is missing, truncated, altered, of a newer version, or not a coreset.
        """
        store = _core.Store(check_path(path), verify)
        if store.kind != "coreset":
            raise StoreError(
                f"{os.fspath(path)}: expected a coreset, it holds a {store.kind}", path=Path(path)
            )
        return cls.from_store(store)

    def state(self) -> tuple[dict[str, str], dict[str, NDArray[np.int64]]]:
        """Return the metadata and the tensors that a file holds besides `bank`."""
        metadata = {
            "image_ids": list(self.image_ids),
            "upsample": self.upsample,
            "shapes": self.shapes,
            "sq_radius": self.sq_radius,
        }
        tensors = {
            "coreset.image_index": self.image_index,
            "coreset.cells": self.cells,
            "coreset.order": self.order,
        }
        return {"coreset": json.dumps(metadata, sort_keys=True)}, tensors

    @classmethod
    def from_store(cls, store: _core.Store) -> Coreset:
        """Rebuild a coreset from an open file that holds `bank` and `state`.

        Raises
        ------
        StoreError
            If there is none, or its parts do not fit each other.
        """
        with as_damage(store.path, "its coreset"):
            return cls.from_rows(*read_parts(store))

    @classmethod
    def from_rows(
        cls,
        rows: NDArray[np.float32],
        image_ids: tuple[str, ...],
        image_index: NDArray[np.int64],
        cells: NDArray[np.int64],
        order: NDArray[np.int64],
        upsample: str,
        shapes: list[tuple[int, int, int]],
        sq_radius: float | None,
    ) -> Coreset:
        """Return the coreset of rows that were picked; see the attributes of `Coreset`."""
        coreset = cls.__new__(cls)
        coreset.image_ids, coreset.image_index, coreset.cells = image_ids, image_index, cells
        coreset.order, coreset.upsample, coreset.shapes = order, upsample, shapes
        coreset.sq_radius = sq_radius
        coreset._set_rows(rows)
        return coreset

    def _set_rows(self, rows: NDArray[np.float32]) -> None:
        core = _core.Gallery("bilinear", "float32")
        if len(rows):
            core.add([rows[None, None]], ["rows"])
        self._bank = ReadOnlyGallery.from_core(core)
        self._rows = rows
        self._rows.flags.writeable = False
