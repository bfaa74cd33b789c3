"""Searching a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from knnspect import _core
from knnspect.backends import Backend, get_backend
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors, Search, Window
from knnspect.search.shards import Shards

__all__ = ["SearchedGallery"]


class SearchedGallery:
    """What answers searches for a gallery."""

    core: _core.Gallery
    #: See `Search.source`: the gallery of which this is a part, or this one.
    _source: _core.Gallery
    #: The folders of a sharded gallery, and of what is left of one without some images.
    _shards: Shards | None = None

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> Neighbors:
        """Find the nearest gallery cells of every cell of a query, exactly.

        Distances are squared L2 between upsampled, concatenated features, as float64 gives them,
        rounded once to float32. Ties go to the lowest (image id, row, column). Neither depends on
        the number of threads, the batch, the machine's instruction set, or the order in which
        images were added.

        A gallery of one level, such as a bank of patch features, keeps some leading coordinates of
        its features from its first search on: about a third of their size in float32, beside
        `nbytes`.

        Parameters
        ----------
        query : FeaturePyramid
            The images to look up; same levels, channels and sizes as the gallery's. Where there is
            one level only the channels need to be the same.
        k : int, default 1
            Neighbours of each cell.
        images : sequence of str, or of sequences of str, optional
            Search only the gallery images with these ids: the same for all query images, or one
            list for each. All by default.
        threads : int, optional
            Number of threads; by default all that the process may use.
        backend : str or Backend, default "auto"
            The backend that searches; see `knnspect.backends`.
        window : int, or sequence of (int or None), optional
            Compare a cell only with gallery cells at most so many rows and columns from its own
            place: in cells of the finest level, or one number for each level, finest first, in
            cells of that level, which must all hold. `Search` has the definition. A window larger
            than the grid is none. The less lies within, the faster the search.

        Returns
        -------
        Neighbors
            Distances, image ids and cells, and the work it took.

        Raises
        ------
        ShapeError
            If the query's levels, channels or sizes differ from the gallery's; with a window, also
            if there is one level and its grid differs.
        ImageError
            If a feature of the query is NaN or infinite.
        ParameterError
            If the gallery is empty, an id is unknown, `k` is not between 1 and the number of cells
            searched (with a window: of those within it, for every cell), `threads` is less than 1,
            or the window has a negative number, or not one for each level.
        MemoryError
            If the neighbours, or the lists from which they are chosen, do not fit into memory.
        DTypeError
            If an argument is of another type.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> query = FeaturePyramid([np.ones((1, 4, 4, 3), "f4")])
        >>> gallery.search(query, images=["b"]).sq_distances[0, 0, 0]
        array([3.], dtype=float32)

        Only the same place, in all images:

        >>> gallery.search(query, window=0).cells[0, 2, 3, 0]
        array([2, 3], dtype=uint32)
        """
        search = self.prepare(query, k, images, threads, window)
        chosen = get_backend(backend)
        if search.window is not None and not chosen.capabilities.windows:
            found = search.left_to_core()
        else:
            found = chosen.search(search)
        missing = () if self._shards is None else self._shards.missing
        return replace(found, missing=missing) if missing and not found.missing else found

    def prepare(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        window: Window = None,
    ) -> Search:
        """Return a search for a backend, with its arguments checked.

        Parameters
        ----------
        query, k, images, threads, window
            As in `search`.

        Returns
        -------
        Search
            It holds the images as they are now: later changes of the gallery do not change it.

        Raises
        ------
        KnnspectError
            As `search`.
        """
        return Search.of(self.core, query, k, images, threads, window, self._source, self._shards)
