"""The half of a gallery that reads and searches, and changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend
from knnspect.errors import ParameterError
from knnspect.files import check_path
from knnspect.gallery.pickling import Images, check_rounding, rebuilt
from knnspect.gallery.searching import SearchedGallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Window
from knnspect.validation import check_count, check_ids, has_surrogates

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReadOnlyGallery"]


class ReadOnlyGallery(SearchedGallery):
    """Feature pyramids of images by id, which are searched and never changed.

    `Gallery.without`, `Gallery.level` and `Coreset.bank` return such galleries; `Gallery` can be
    changed, too.
    """

    def __init__(self) -> None:
        raise TypeError(
            "a ReadOnlyGallery comes from Gallery.without, Gallery.level or Coreset.bank"
        )

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

    def level(self, index: int) -> ReadOnlyGallery:
        """Return one level of the gallery as it is now, as a gallery of its own.

        No features are copied. Queries have that level alone; cells, and the radius of a window,
        are those of its own grid.

        Parameters
        ----------
        index : int
            Which level; 0 is the finest.

        Returns
        -------
        ReadOnlyGallery
            The same images, under the same ids; later changes of the gallery do not change it.

        Raises
        ------
        ParameterError
            If the gallery is empty, or has no such level.
        DTypeError
            If `index` is not a whole number.

        Examples
        --------
        >>> import numpy as np, knnspect as ks
        >>> levels = [np.zeros((2, 4, 4, 3), "f4"), np.ones((2, 2, 2, 5), "f4")]
        >>> gallery = ks.Gallery()
        >>> _ = gallery.add(FeaturePyramid(levels), ids=["a", "b"])
        >>> gallery.level(1).shapes, gallery.level(1).ids
        ([(2, 2, 5)], ['a', 'b'])
        >>> gallery.level(1).search(FeaturePyramid(levels[1:])[0])
        Neighbors(n_images=1, cells=2x2, k=1)
        """
        index = min(check_count("index", index, minimum=0), sys.maxsize)
        return ReadOnlyGallery.from_core(self.core.level(index))

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
