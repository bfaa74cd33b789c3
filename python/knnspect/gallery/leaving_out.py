"""The nearest row of a coreset that did not come from some images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from knnspect.gallery.coreset import Coreset
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors

__all__ = ["nearest_without"]

#: So many nearest rows are looked at first, then so many.
_STEPS = (4, 32)


def nearest_without(
    coreset: Coreset, query: FeaturePyramid, ids: Collection[str], **how: Any
) -> Neighbors | None:
    """Return the nearest row of each cell, but for rows that came from some images.

    Return None if no other row is there.

    The same as ``coreset.without(ids).search(query)``, but for `image_ids`, which are all. Most
    cells have one among a few nearest rows of all; that takes less time than a coreset without
    some rows, for which an index is to be made.

    Parameters
    ----------
    coreset : Coreset
        What is searched.
    query : FeaturePyramid
        One image.
    ids : collection of str
        Some of ``coreset.image_ids``.
    **how
        As `Coreset.search` takes them.

    Examples
    --------
    >>> from knnspect import Gallery
    >>> gallery = Gallery()
    >>> rows = np.arange(8, dtype="f4").reshape(2, 2, 2, 1)
    >>> _ = gallery.add(FeaturePyramid([rows]), ids=["a", "b"])
    >>> found = nearest_without(gallery.coreset(8), gallery.pyramid(["a"]), ["a"])
    >>> found.sq_distances[0, ..., 0].tolist()
    [[16.0, 9.0], [4.0, 1.0]]
    """
    hidden_ids = set(ids)
    hidden = np.array([id_ in hidden_ids for id_ in coreset.image_ids], bool)
    if hidden[coreset.image_index].all():
        return None
    for k in _STEPS:
        found = coreset.search(query, min(k, len(coreset)), **how)
        is_hidden = hidden[found.image_index]
        if not is_hidden.all(axis=-1).any():
            first = is_hidden.argmin(axis=-1)[..., None]
            return Neighbors(
                np.take_along_axis(found.sq_distances, first, axis=-1),
                np.take_along_axis(found.image_index, first, axis=-1),
                np.take_along_axis(found.cells, first[..., None], axis=-2),
                found.image_ids,
            )
    left = coreset.without([id_ for id_ in coreset.image_ids if id_ in hidden_ids])
    found = left.search(query, **how)
    places = np.flatnonzero(~hidden).astype(np.uint32)
    return Neighbors(found.sq_distances, places[found.image_index], found.cells, coreset.image_ids)
