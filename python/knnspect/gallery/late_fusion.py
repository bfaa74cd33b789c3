"""Late fusion: each level of a gallery searched on its own, and the mean of the distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from knnspect.backends import Backend
from knnspect.errors import ParameterError
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors, SearchStats, Window
from knnspect.search.window import fewest_cells, radii_of
from knnspect.validation import check_window

__all__ = ["LateFusion", "fewest_cells_of_levels", "radii_of_levels"]

#: Distances beyond float32, which are infinite, count as this when they are blended.
_LARGEST = np.finfo(np.float32).max


class LateFusion:
    """A gallery of which each level is searched on its own, at its own resolution.

    The distance of a query cell is the mean over levels: of each the squared L2 distance of the
    cell that it lies in to the nearest cell of that level, whatever lies there on other levels.
    Between the centres of a coarse level's cells these distances are interpolated, or repeated, as
    the gallery upsamples features. Levels are not weighted: one whose features have larger values
    counts for more, as it does when levels are concatenated. Of rows of length 1 a squared distance
    is twice the cosine distance, so that such levels count alike.

    The distances of each level are exact (see `Gallery.search`); what is blended and averaged is
    computed in float64 and rounded to float32. Images, `k`, threads and backends are as for
    concatenated levels.

    Parameters
    ----------
    gallery : ReadOnlyGallery
        The gallery, as it is now: later changes of it do not change this.

    Source
    ------
    Zhang et al., "Is Training Necessary for Anomaly Detection?" (2026), arXiv 2601.22763, where
    levels are blocks of a transformer, and distances are cosine distances. Deviation: levels may
    be of different sizes.

    Examples
    --------
    >>> import numpy as np, knnspect as ks
    >>> fine = np.array([[0, 1], [2, 3]], "f4").reshape(1, 2, 2, 1)
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(FeaturePyramid([fine, fine + 8]), ids=["a"])
    >>> query = FeaturePyramid([fine, fine[:, ::-1, ::-1] + 10])
    >>> LateFusion(gallery).search(query).sq_distances[0, ..., 0]
    array([[2. , 0.5],
           [0. , 0. ]], dtype=float32)
    """

    def __init__(self, gallery: ReadOnlyGallery) -> None:
        levels = [gallery.level(index) for index in range(len(gallery.shapes))]
        self._gallery, self._levels = gallery, levels

    def __reduce__(self) -> tuple[Callable[..., LateFusion], tuple[object, ...]]:
        return LateFusion, (self._gallery,)

    @property
    def n_rows(self) -> int:
        """Number of cells of all images, at the finest level."""
        return self._gallery.n_rows

    def without(self, ids: Sequence[str]) -> LateFusion:
        """Return the same without some images; no features are copied."""
        left = LateFusion.__new__(LateFusion)
        left._gallery = self._gallery.without(ids)
        left._levels = [level.without(ids) for level in self._levels]
        return left

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> Neighbors:
        """Find the nearest cells of every cell of a query, level by level.

        Parameters
        ----------
        query, images, threads, backend
            As in `Gallery.search`.
        k : int, default 1
            Neighbours of each cell on each level; the j-th distance is the mean of the j-th ones.
        window : int, or sequence of (int or None), optional
            How many rows and columns away gallery cells may be: one number for each level, in cells
            of that level. One number alone is in cells of the finest level, and on a coarser one
            rounded up to whole cells of that.

        Returns
        -------
        Neighbors
            At the finest level. The distances are the means over levels; a cell shows the images
            and cells of the level that adds most to its distance (the finest of several). A cell of
            a coarser level is shown at the finest: where in it the query cell lies in its own.
            `stats` are the sums over levels, each counted in its own cells.

        Raises
        ------
        KnnspectError
            As `Gallery.search`; with the level where `k` exceeds the cells of one.
        """
        if len(self._levels) == 1:
            return self._levels[0].search(query, k, images, threads, backend, window)
        # What is wrong with the query is said once, of all levels.
        shapes = self._gallery.prepare(query, k, images, threads).shapes
        found = []
        for index, radius in enumerate(radii_of_levels(window, shapes)):
            level, gallery = FeaturePyramid([query.arrays[index]]), self._levels[index]
            try:
                found.append(gallery.search(level, k, images, threads, backend, radius))
            except ParameterError as error:
                raise ParameterError(
                    f"level {index}, searched on its own: {error}",
                    level=index,
                    parameter=error.parameter,
                ) from error
        return _fused(found, self._gallery.upsample)


def radii_of_levels(window: Window, shapes: Sequence[tuple[int, int, int]]) -> list[int | None]:
    """Return the radius of a window on each level, in cells of that level; see `LateFusion.search`.

    >>> radii_of_levels(3, [(8, 8, 3), (4, 4, 16)]), radii_of_levels((None, 1), [(8, 8, 3)] * 2)
    ([3, 2], [None, 1])
    """
    checked = check_window(window)
    if isinstance(checked, int):
        height, width, _ = shapes[0]
        return [max(-(-checked * h // height), -(-checked * w // width)) for h, w, _ in shapes]
    radii = radii_of(checked, len(shapes))
    return [None] * len(shapes) if radii is None else list(radii)


def fewest_cells_of_levels(shapes: Sequence[tuple[int, int, int]], window: Window) -> int:
    """Return how many cells of an image every cell is compared with at least, on any level.

    >>> fewest_cells_of_levels([(8, 8, 3), (4, 4, 16)], None)
    16
    >>> fewest_cells_of_levels([(8, 8, 3), (4, 4, 16)], 1)
    4
    """
    radii = radii_of_levels(window, shapes)
    return min(fewest_cells([shape], radius) for shape, radius in zip(shapes, radii, strict=True))


def _fused(found: Sequence[Neighbors], upsample: str) -> Neighbors:
    """Return what was found on each level, finest first, as neighbours at the finest level."""
    levels = FeaturePyramid([np.minimum(one.sq_distances, _LARGEST) for one in found])
    at_finest = levels.concatenated(upsample)  # type: ignore[arg-type]
    n_images, height, width, _ = at_finest.shape
    parts = at_finest.reshape(n_images, height, width, len(found), -1).astype(np.float64)
    shown = parts.sum(axis=-1).argmax(axis=-1)
    shape = (n_images, height, width, found[0].k)
    image_index, cells = np.empty(shape, np.uint32), np.empty((*shape, 2), np.uint32)
    for index, one in enumerate(found):
        at = np.nonzero(shown == index)
        image, *place = at
        size = one.sq_distances.shape[1:3]
        ratio = [side // own for side, own in zip((height, width), size, strict=True)]
        own = (image, *(along // n for along, n in zip(place, ratio, strict=True)))
        image_index[at] = one.image_index[own]
        offset: NDArray[np.intp] = np.stack(place, axis=-1) % ratio
        cells[at] = one.cells[own] * ratio + offset[:, None]
    sq_distances = parts.mean(axis=3).astype(np.float32)
    stats = SearchStats.sum_of(one.stats for one in found)
    return Neighbors(sq_distances, image_index, cells, found[0].image_ids, stats)
