"""A coreset of which only the rows of some images are searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knnspect.backends import Backend
from knnspect.gallery.coreset import Coreset
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors, Window

__all__ = ["RowsOfImages"]


class RowsOfImages:
    """Searches those rows of a coreset that came from some images, as a gallery is searched.

    Rows are copied, unless they are all.

    Parameters
    ----------
    coreset : Coreset
        The rows of all images.

    Examples
    --------
    >>> import knnspect as ks
    >>> normal = FeaturePyramid([np.arange(8, dtype="f4").reshape(2, 2, 2, 1)])
    >>> gallery = ks.Gallery()
    >>> _ = gallery.add(normal, ids=["a", "b"])
    >>> rows = RowsOfImages(gallery.coreset(8))
    >>> rows.search(normal[0], images=[["b"]]).sq_distances[0, ..., 0]
    array([[16.,  9.],
           [ 4.,  1.]], dtype=float32)
    """

    def __init__(self, coreset: Coreset) -> None:
        self._coreset = coreset

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        backend: str | Backend = "auto",
        window: Window = None,
    ) -> Neighbors:
        """Find the nearest rows of every cell of a query; see `Coreset.search`.

        `images` are those whose rows are searched, as for `Gallery.search`.
        """
        ids = self._coreset.image_ids
        if images is None or all(isinstance(id_, str) for id_ in images):
            images = [images or ids] * query.n_images  # type: ignore[list-item]
        places = {id_: place for place, id_ in enumerate(ids)}
        searched, of = self._coreset, frozenset(ids)
        found, ranks = [], []
        for index, near in enumerate(images):
            # The next image is often compared with the same normal ones.
            if of != frozenset(near):
                of = frozenset(near)
                searched = self._coreset.without(sorted(set(ids) - of))
            found.append(searched.search(query[index], k, threads, backend, window))
            in_all = np.array([places[id_] for id_ in searched.image_ids], np.uint32)
            ranks.append(in_all[found[-1].image_index])
        return Neighbors(
            np.concatenate([one.sq_distances for one in found]),
            np.concatenate(ranks),
            np.concatenate([one.cells for one in found]),
            ids,
        )
