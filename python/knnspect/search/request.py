"""A search as a value: what a backend is to find."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.errors import DTypeError, ImageError
from knnspect.pyramid import FeaturePyramid
from knnspect.search.neighbors import Neighbors
from knnspect.search.shards import Shards
from knnspect.search.stats import SearchStats
from knnspect.search.window import Window, radii_of
from knnspect.validation import check_count, check_ids, describe_value

__all__ = ["Search"]

Ranks = NDArray[np.uint32]
#: Squared distances, and places of images and cells, each of shape (n_cells, k).
Found = tuple[NDArray[Any], Ranks, Ranks]


@dataclass(frozen=True, eq=False, repr=False)
class Search:
    """A search: a query, and the images of a gallery as they were when the search was made.

    A search may have a *position window*: then a query cell is compared only with gallery cells
    near its own place, in every image. A window has a radius for each level, in cells of that
    level, or None there for any distance. A cell of the finest level at ``(row, column)`` lies in
    the cell ``(row * h // height, column * w // width)`` of a level of ``h x w`` cells. Two cells
    are compared if on every level that has a radius the cells that they lie in are at most that
    many rows and at most that many columns apart (Chebyshev distance). It is the same with both
    ways of upsampling: a window says which cells are compared, not which of their values.

    One number ``w`` is the radius on the finest level, and none on the others: gallery cells at
    most ``w`` rows and ``w`` columns away. 0 is the same place. Radii that reach from end to end
    of the grid restrict nothing, and mean no window. At a corner of the grid the fewest cells lie
    within: with one number ``(w + 1)**2`` of each image. `k` may not exceed these. A window needs
    query and gallery on the same grid.

    `Gallery.prepare` makes one, and checks everything once. A backend answers it. The backend may
    read the images' features here, and leave to the Rust core what it cannot decide itself.

    Images are known by their *ranks*, their places in `image_ids`, and by their *serials*, numbers
    that no other image has or had. Each query image may have its own list of images, so methods
    that return images take the number of the query image first.

    Attributes
    ----------
    query : FeaturePyramid
        The images to look up; finite.
    k : int
        Neighbours of each cell; there are as many.
    threads : int or None
        Number of threads to use at most; None: all that the process may use.
    window : tuple of (int or None), or None
        The radius on each level, finest first; None where there is no window.
    source : object
        The same object for all searches of one gallery, which lives as long as the gallery. A
        backend that caches images does so in a `weakref.WeakKeyDictionary` with this as the key.
    n_stored : int
        Number of images of that gallery, searched or not: a cache needs room for no more.
    shards : Shards or None
        The folders of a sharded gallery, in the states that hold the images.

    Examples
    --------
    >>> import numpy as np, knnspect as ks
    >>> from knnspect.backends import get_backend
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
    >>> search = gallery.prepare(FeaturePyramid([np.ones((1, 4, 4, 3), "f4")]), images=["b"])
    >>> search.image_ids, search.k, search.ranks(0), search.rows(0).shape
    (('b',), 1, array([0], dtype=uint32), (1, 16, 3))
    >>> get_backend("rust").search(search).sq_distances[0, 0, 0]
    array([3.], dtype=float32)
    """

    query: FeaturePyramid
    k: int
    threads: int | None
    window: tuple[int | None, ...] | None
    source: object
    n_stored: int
    shards: Shards | None
    _checked: _core.Search

    @classmethod
    def of(
        cls,
        gallery: _core.Gallery,
        query: FeaturePyramid,
        k: int,
        images: Sequence[str] | Sequence[Sequence[str]] | None,
        threads: int | None,
        window: Window,
        source: _core.Gallery,
        shards: Shards | None = None,
    ) -> Search:
        """Check the arguments of `Gallery.prepare`, and take hold of the images."""
        if not isinstance(query, FeaturePyramid):
            raise DTypeError(f"query: expected a FeaturePyramid, got {type(query).__name__}")
        k = min(check_count("k", k), sys.maxsize)
        threads = None if threads is None else min(check_count("threads", threads), sys.maxsize)
        subset = _check_subset(images)
        # An empty gallery has no levels, which the core says.
        radii = radii_of(window, len(gallery.shapes) or len(query.shapes))
        given = None if radii is None else list(radii)
        # Shards may be searched elsewhere: here they are read when their features are asked for.
        verify = shards is None
        if query.is_on_device:
            shapes, n_images = query.shapes, query.n_images
            core = _core.Search.of(gallery, shapes, n_images, k, subset, threads, given, verify)
            _check_finite(query)
        else:
            core = _core.Search(gallery, list(query.levels), k, subset, threads, given, verify)
        radii = None if core.window is None else radii
        return cls(query, k, threads, radii, source, len(source), shards, core)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images that are searched, sorted."""
        return tuple(self._checked.ids)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level of the gallery.

        Of pyramids of one level only the channels need to be those of the query: their cells may
        lie on any grids.
        """
        return self._checked.shapes

    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled."""
        return self._checked.upsample

    def __repr__(self) -> str:
        window = "" if self.window is None else f", window={self.window}"
        n_images = len(self._checked.ids)
        return f"Search(query={self.query!r}, k={self.k}, n_images={n_images}{window})"

    @property
    def window_bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """What is compared with each row, and with each column, of the finest level.

        Two arrays of shape (height, 2) and (width, 2): the first row, or column, of the gallery,
        and one after the last. None where there is no window.
        """
        bounds = self._checked.window
        return None if bounds is None else (np.array(bounds[0]), np.array(bounds[1]))

    def n_pairs(self, image: int) -> int:
        """Return how many pairs of cells a query image is compared in, at the finest level."""
        height, width, _ = self.query.shapes[0]
        n_images = len(self._checked.ranks(image))
        if (bounds := self.window_bounds) is None:
            of_gallery, of_gallery_across, _ = self.shapes[0]
            return n_images * height * width * of_gallery * of_gallery_across
        rows, columns = (int((ends[:, 1] - ends[:, 0]).sum()) for ends in bounds)
        return n_images * rows * columns

    def ranks(self, image: int) -> Ranks:
        """Return which images a query image is compared with, in the order of their ids."""
        return self._checked.ranks(image)

    def serials(self, image: int) -> NDArray[np.uint64]:
        """Return the serial of each of these images."""
        return self._checked.serials(image)

    def levels(self, image: int, ranks: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return the levels of some of these images, each (n_images, height, width, channels)."""
        return self._checked.levels(image, list(ranks))

    def rows(self, image: int) -> NDArray[np.float32]:
        """Return the upsampled, concatenated features of all of these images.

        Returns
        -------
        ndarray of float32, shape (n_images, n_cells, n_features)
            A copy.
        """
        return self._checked.rows(image, self._checked.ranks(image).tolist())

    def rescore(
        self,
        image: int,
        query_cells: Ranks,
        starts: NDArray[np.uint64],
        ranks: Ranks,
        cells: Ranks,
    ) -> Found:
        """Return the `k` nearest of some candidates, by the distances of the contract.

        Parameters
        ----------
        image : int
            The query image.
        query_cells : ndarray of uint32, shape (n,)
            Cells of it: ``row * width + column``.
        starts : ndarray of uint64, shape (n + 1,)
            Where the candidates of each cell begin, and where the last ones end.
        ranks, cells : ndarray of uint32, shape (starts[-1],)
            Image and cell of each candidate.

        Returns
        -------
        sq_distances : ndarray of float64, shape (n, k)
            Nearest first, ties in the order of places; infinite where there are fewer than k.
        ranks, cells : ndarray of uint32, shape (n, k)
            Where they are.
        """
        found = self._checked.rescore(self._levels, image, query_cells, starts, ranks, cells)
        return found.sq_distances, found.ranks, found.cells

    def image_by_core(self, image: int) -> Found:
        """Let the Rust core search for one query image.

        Returns
        -------
        sq_distances : ndarray of float32, shape (n_cells, k)
            Nearest first.
        ranks, cells : ndarray of uint32, shape (n_cells, k)
            Where they are.
        """
        found = self._checked.search_image(self._levels, image)
        return found.sq_distances, found.ranks, found.cells

    def by_core(
        self,
        instruction_set: str | None = None,
        matcher: str = "auto",
        hidden: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> Neighbors:
        """Let the Rust core search.

        Parameters
        ----------
        instruction_set, matcher
            See `RustBackend`.
        hidden : sequence of sequences of (int, int), optional
            For each query image, runs of cells that it is not compared with, of every image: the
            first, and one after the last, at the finest level, in order. Not with a window.
        """
        runs = None if hidden is None else [list(of_image) for of_image in hidden]
        found = self._checked.search(self._levels, instruction_set, matcher, runs)
        stats = SearchStats(found.stats.pairs, dict(found.stats.stages))
        return self.found(found.sq_distances, found.ranks, found.cells, stats)

    def exactly_by_core(self) -> tuple[Found, SearchStats]:
        """Let the Rust core search, and keep the distances in float64.

        Returns
        -------
        sq_distances, ranks, cells : ndarray of float64 and uint32, shape (n_images * n_cells, k)
            Nearest first. Distances that differ may be equal once they are rounded to float32.
        stats : SearchStats
            What was compared.
        """
        found, stats = self._checked.search_exactly(self._levels)
        lists = (found.sq_distances, found.ranks, found.cells)
        return lists, SearchStats(stats.pairs, dict(stats.stages))

    def left_to_core(self) -> Neighbors:
        """Let the Rust core search for a backend that cannot; its `stats` say so."""
        found = self.by_core()
        pairs = sum(self.n_pairs(image) for image in range(self.query.n_images))
        return replace(found, stats=SearchStats(pairs, {"core": pairs}))

    def found(
        self,
        sq_distances: NDArray[Any],
        ranks: NDArray[Any],
        cells: NDArray[Any],
        stats: SearchStats | None = None,
    ) -> Neighbors:
        """Return what was found as `Neighbors`.

        Parameters
        ----------
        sq_distances : ndarray of float32 or float64, n_images * n_cells * k values
            For each query image and each of its cells the `k` smallest, smallest first. They are
            rounded to float32.
        ranks, cells : ndarray of integer, as many values
            Image and cell of each, ``row * width + column``.
        stats : SearchStats, optional
            What the search did.
        """
        height, width, _ = self.query.shapes[0]
        shape = (self.query.n_images, height, width, self.k)
        if sq_distances.dtype != np.float32:
            with np.errstate(over="ignore"):  # beyond float32 a distance is infinite
                sq_distances = sq_distances.astype(np.float32)
        cells = cells.astype(np.uint32, copy=False).reshape(shape)
        return Neighbors(
            sq_distances.reshape(shape),
            ranks.astype(np.uint32, copy=False).reshape(shape),
            np.stack(np.divmod(cells, np.uint32(self._checked.shapes[0][1])), axis=-1),
            self.image_ids,
            stats,
        )

    @property
    def _levels(self) -> list[NDArray[Any]]:
        return list(self.query.levels)


def _check_subset(images: object) -> list[list[str]] | None:
    if images is None:
        return None
    if isinstance(images, str) or not isinstance(images, Iterable):
        raise DTypeError(f"images: expected a sequence of ids, got {describe_value(images)}")
    entries = list(images)
    if all(isinstance(entry, str) for entry in entries):
        return [check_ids(entries, "images")]
    return [check_ids(entry, f"images[{index}]") for index, entry in enumerate(entries)]


def _check_finite(query: FeaturePyramid) -> None:
    """Raise an ImageError that names an image and a level that are not finite, on a device."""
    for index, level in enumerate(query.arrays):
        is_finite = level.flatten(1).isfinite().all(dim=1)
        if not bool(is_finite.all()):
            raise ImageError(
                f"query image {int(is_finite.long().argmin())}, level {index}: features must be "
                "finite, got NaN or infinity"
            )
