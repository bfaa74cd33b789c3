"""The half of a gallery that reads and searches, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend, get_backend
from knnspect.errors import ParameterError
from knnspect.files import check_path
from knnspect.gallery.pickling import Images, check_rounding, rebuilt
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors, Search, Window
from knnspect.validation import check_ids, has_surrogates

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReadOnlyGallery"]


class ReadOnlyGallery:
    """Feature pyramids of images by id, which are searched and never changed.

    `Gallery.without` and `Coreset.bank` return such galleries; `Gallery` can be changed, too.
    """

    core: _core.Gallery
    #: See `Search.source`: the gallery of which this is a part, or this one.
    _source: _core.Gallery

    def __init__(self) -> None:
        raise TypeError("a ReadOnlyGallery comes from Gallery.without or Coreset.bank")

    @classmethod
    def from_core(cls, core: _core.Gallery) -> Self:
        """Wrap a gallery of the Rust core."""
        gallery = cls.__new__(cls)
        gallery.core = gallery._source = core
        return gallery

    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled."""
        return self.core.upsample

    @property
    def dtype(self) -> str:
        """How features are kept."""
        return self.core.dtype

    @property
    def ids(self) -> list[str]:
        """Ids of the images, sorted."""
        return self.core.ids

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The same as `ids`, by the name that they have in `Neighbors` and `Coreset`."""
        return tuple(self.core.ids)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level; empty before the first image."""
        return self.core.shapes

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.core)

    @property
    def n_rows(self) -> int:
        """Number of cells of all images, at the finest level."""
        return len(self.core) * self._n_cells

    @property
    def nbytes(self) -> int:
        """Bytes of the features, in memory or in a memory-mapped file.

        The scales and offsets of an int8 gallery are counted.
        """
        return self.core.nbytes

    @property
    def path(self) -> Path | None:
        """The folder of a gallery that is in one."""
        return self.core.path

    def __len__(self) -> int:
        return len(self.core)

    def __contains__(self, id: object) -> bool:  # noqa: A002
        return isinstance(id, str) and not has_surrogates(id) and self.core.contains(id)

    def __copy__(self) -> Self:
        return self.from_core(self.core.copy())

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()  # images never change once they are in a gallery

    def __reduce__(self) -> tuple[Callable[..., ReadOnlyGallery], tuple[object, ...]]:
        """Pickle the features.

        Raises
        ------
        DTypeError
            If features of an int8 gallery would be rounded anew.
        """
        core = self.core.copy()  # as it is now, whatever other threads do to it
        images = [(id_, core.image(id_)) for id_ in core.ids]
        if core.dtype == "int8":
            check_rounding(core, images)
        return _rebuilt, (type(self), core.upsample, core.dtype, images)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(upsample={self.upsample!r}, dtype={self.dtype!r}, "
            f"n_images={len(self)}"
            + "".join(f", level{i}={h}x{w}x{c}" for i, (h, w, c) in enumerate(self.shapes))
            + ")"
        )

    def pyramid(self, ids: Sequence[str] | None = None) -> FeaturePyramid:
        """Return the features of some or all images, as copies.

        Parameters
        ----------
        ids : sequence of str, optional
            Which images, in this order; all, in the order of their ids, by default.

        Returns
        -------
        FeaturePyramid
            Their features, of the gallery's dtype; those of an int8 gallery decoded, as float32:
            the values that distances are taken to. An int8 gallery keeps these as they are when
            they are added to it; only where a channel's values are some hundred times closer to
            each other than to zero, they may be rounded anew.

        Raises
        ------
        ParameterError
            If an id is not in the gallery, or there is none.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> gallery.pyramid(["b"])
        FeaturePyramid(n_images=1, levels=4x4x3)
        """
        checked = self.ids if ids is None else check_ids(ids, "ids")
        if not checked:
            raise ParameterError("ids: expected at least one image, got none", parameter="ids")
        images = [self.core.image(name) for name in checked]
        return FeaturePyramid([np.stack(levels) for levels in zip(*images, strict=True)])

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
            return search.left_to_core()
        return chosen.search(search)

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
        return Search.of(self.core, query, k, images, threads, window, self._source)

    def without(self, ids: Sequence[str]) -> ReadOnlyGallery:
        """Return the gallery as it is now, without some images.

        No features are copied.

        Parameters
        ----------
        ids : sequence of str
            Ids of images in the gallery; if these are all, nothing is left to search.

        Returns
        -------
        ReadOnlyGallery
            In memory; later changes of the gallery do not change it.

        Raises
        ------
        ParameterError
            If an id is not in the gallery.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> gallery.without(["a"]).ids, gallery.ids
        (['b'], ['a', 'b'])
        """
        core = self.core.copy()
        core.remove(check_ids(ids, "ids"))
        left = ReadOnlyGallery.from_core(core)
        left._source = self._source  # so that backends know the images again
        return left

    def around(
        self,
        image_id: str,
        cell: tuple[int, int],
        n: int,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the feature of a cell, and the features that are nearest to it.

        Parameters
        ----------
        image_id : str
            An image in the gallery.
        cell : (int, int)
            A cell of it: (row, column) at the finest level.
        n : int
            How many of the nearest features, that of the cell itself included.
        threads, backend, window
            As in `search`.

        Returns
        -------
        row : ndarray of float32, shape (n_features,)
            The upsampled, concatenated feature of the cell.
        nearest : ndarray of float32, shape (n, n_features)
            The `n` nearest of the gallery, nearest first.

        Raises
        ------
        ParameterError
            If there is no such image or cell, or there are fewer than `n` cells.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.arange(4, dtype="f4").reshape(1, 2, 2, 1)]), ["a"])
        >>> gallery.around("a", (0, 1), 2)
        (array([1.], dtype=float32), array([[1.],
               [0.]], dtype=float32))
        """
        # With all cells of its image: pyramids are not searched for single ones.
        query = self.pyramid([image_id])
        height, width, _ = query.shapes[0]
        row, column = cell
        if not (0 <= row < height and 0 <= column < width):
            raise ParameterError(
                f"cell: expected one of {height} x {width}, got {tuple(cell)}", parameter="cell"
            )
        found = self.search(query, n, None, threads, backend, window)
        names = [found.image_ids[index] for index in found.image_index[0, row, column]]
        rows = {name: self._rows(name) for name in {image_id, *names}}
        cells = found.cells[0, row, column]
        nearest = [rows[name][tuple(at)] for name, at in zip(names, cells, strict=True)]
        return rows[image_id][row, column], np.stack(nearest)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the gallery to a file, replacing what is there only when all is written.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum.

        Raises
        ------
        StoreError
            If the file cannot be written; what was there is then untouched.
        ParameterError
            If the gallery is empty.
        """
        self.core.save(check_path(path), "gallery", {}, {})

    def _rows(self, id_: str) -> NDArray[np.float32]:
        rows = self.pyramid([id_]).concatenated(self.upsample)  # type: ignore[arg-type]
        features: NDArray[np.float32] = rows[0]
        return features

    @property
    def _n_cells(self) -> int:
        """Cells of an image at the finest level; 0 before the first image."""
        shapes = self.core.shapes
        return shapes[0][0] * shapes[0][1] if shapes else 0


def _rebuilt(
    cls: type[ReadOnlyGallery], upsample: str, dtype: str, images: Images
) -> ReadOnlyGallery:
    return cls.from_core(rebuilt(upsample, dtype, images))
